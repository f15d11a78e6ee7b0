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
  embedding(y, ids, table, 0, stream);
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
  embedding_backward(dtable, dy, memory.of<int32_t>({3}, {2, 0, 2}), 0, stream);
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
    embedding_backward(dtable, dy, ids, 0, stream);
    for (int64_t c = 0; c < width; ++c) EXPECT_EQ(1.0f, dtable.data<float>()[c]);
  }
  omp_set_num_threads(before);
}

// Tables of 3, 1 and 3 ids, each of which sees all tokens.
TEST(Embedding, PartsOfTheTableAddUpToTheWhole) {
  GuardedMemory memory;
  Stream stream;
  const int64_t width = 70;
  const Tensor table = memory.normal({7, width});
  const Tensor ids = memory.of<int32_t>({6}, {6, 0, 3, 2, 6, 4});
  const Tensor dy = memory.normal({6, width});
  const Tensor whole = memory.poisoned({6, width});
  const Tensor dwhole = memory.zeros({7, width}), dparts = memory.zeros({7, width});
  embedding(whole, ids, table, 0, stream);
  embedding_backward(dwhole, dy, ids, 0, stream);
  const Tensor sum = memory.zeros({6, width});
  for (const auto& [begin, end] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 3}, {3, 4}, {4, 7}}) {
    const Tensor part = memory.poisoned({6, width});
    embedding(part, ids, memory.copy_of(table.rows(begin, end)), begin, stream);
    for (int64_t i = 0; i < part.numel(); ++i) sum.data<float>()[i] += part.data<float>()[i];
    embedding_backward(dparts.rows(begin, end), dy, ids, begin, stream);
  }
  expect_identical(sum, whole);
  expect_identical(dparts, dwhole);
}

}  // namespace
}  // namespace rankwise
