// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <vector>

#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_identical;
using testing::GuardedMemory;

TEST(Embedding, CopiesTheRowOfEachId) {
  GuardedMemory memory;
  Stream stream;
  const Tensor table = memory.normal({5, 24});
  const Tensor ids = memory.of<int32_t>({4}, {4, 0, 4, 2});
  const Tensor y = memory.poisoned({4, 24});
  embedding(y, ids, table, stream);
  for (int64_t t = 0; t < 4; ++t) {
    expect_identical(y.rows(t, t + 1),
                     table.rows(ids.data<int32_t>()[t], ids.data<int32_t>()[t] + 1));
  }
}

TEST(Embedding, BackwardAddsToTheRowOfEachId) {
  GuardedMemory memory;
  Stream stream;
  const Tensor dtable = memory.of<float>({3, 2}, {1, 1, 1, 1, 1, 1});
  const Tensor dy = memory.of<float>({3, 2}, {1, 2, 10, 20, 100, 200});
  embedding_backward(dtable, dy, memory.of<int32_t>({3}, {2, 0, 2}), stream);
  expect_close(dtable, std::vector<double>{11, 21, 1, 1, 102, 203}, 0.0, 0.0);
}

// 1e8 + 1 - 1e8 is 0 in fp32, 1e8 - 1e8 + 1 is 1: only token order gives the expected row.
TEST(Embedding, BackwardSumsInTokenOrderForAnyThreadCount) {
  const int before = omp_get_max_threads();
  for (const int threads : {1, 3}) {
    omp_set_num_threads(threads);
    GuardedMemory memory;
    Stream stream;
    const int64_t width = 200;
    const int64_t tokens = 300;
    const Tensor dtable = memory.zeros({2, width});
    const Tensor dy = memory.zeros({tokens, width});
    const Tensor ids = memory.zeros(DType::kI32, {tokens});
    for (int64_t c = 0; c < width; ++c) {
      dy.data<float>()[100 * width + c] = 1e8f;
      dy.data<float>()[200 * width + c] = -1e8f;
      dy.data<float>()[299 * width + c] = 1.0f;
    }
    ids.data<int32_t>()[7] = 1;
    embedding_backward(dtable, dy, ids, stream);
    for (int64_t c = 0; c < width; ++c) EXPECT_EQ(1.0f, dtable.data<float>()[c]);
  }
  omp_set_num_threads(before);
}

TEST(EmbeddingDeathTest, RefusesAnIdOutsideTheTable) {
  GuardedMemory memory;
  Stream stream;
  const Tensor table = memory.zeros({5, 2});
  const Tensor y = memory.zeros({1, 2});
  EXPECT_DEATH(embedding(y, memory.of<int32_t>({1}, {5}), table, stream), "id 5 of 5");
  EXPECT_DEATH(embedding(y, memory.of<int32_t>({1}, {-1}), table, stream), "id -1 of 5");
  EXPECT_DEATH(embedding_backward(table, y, memory.of<int32_t>({1}, {9}), stream), "id 9 of 5");
}

}  // namespace
}  // namespace rankwise
