// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::Backends;
using testing::expect_identical;
using testing::kActivationTypes;
using testing::rounded;

// The whole table of 50 rows, and parts of it.
constexpr std::pair<int64_t, int64_t> kIdRanges[] = {{0, 50}, {0, 17}, {17, 18}, {18, 50}};

// `period` distinct ids, repeated.
std::vector<int32_t> repeating_ids(int64_t tokens, int64_t period) {
  std::vector<int32_t> out;
  for (int64_t t = 0; t < tokens; ++t) out.push_back(static_cast<int32_t>(t * t % period));
  return out;
}

TEST(EmbeddingCuda, CopiesTheRowOfEachId) {
  RW_REQUIRE_GPU();
  for (const int64_t width : {1, 24, 172, 173, 4096}) {
    for (const DType from : kActivationTypes) {
      for (const DType to : kActivationTypes) {
        for (const int64_t extra : {0, 8, 3}) {
          Backends b;
          const Tensor table = b.memory.normal({50, width});
          const Tensor ids = b.memory.of<int32_t>({65}, repeating_ids(65, 50));
          const Tensor y = b.device.poisoned(to, {65, width}, extra);
          const Tensor gpu_table = b.device.copy_of(table, from, extra);
          const Tensor expected = b.memory.poisoned({65, width});
          for (const auto& [begin, end] : kIdRanges) {
            embedding(y, b.device.copy_of(ids), gpu_table.rows(begin, end), begin, b.gpu);
            embedding(expected, ids, rounded(table, from).rows(begin, end), begin, b.cpu);
            expect_identical(b.device.to_host(y, b.memory), rounded(expected, to));
          }
        }
      }
    }
  }
}

// Bit for bit: the tokens of a row are added in the same order.
TEST(EmbeddingCuda, BackwardAddsInTokenOrder) {
  RW_REQUIRE_GPU();
  for (const int64_t tokens : {1, 31, 33, 300}) {
    for (const int64_t period : {1, 7, 47}) {
      for (const int64_t width : {172, 173, 1032}) {
        for (const DType dtype : kActivationTypes) {
          for (const int64_t extra : {0, 3}) {
            Backends b;
            const Tensor dtable = b.memory.normal({50, width});
            const Tensor gpu_dtable = b.device.copy_of(dtable);
            const Tensor dy = b.memory.normal({tokens, width}, 10.0f);
            const Tensor ids = b.memory.of<int32_t>({tokens}, repeating_ids(tokens, period));
            const Tensor gpu_dy = b.device.copy_of(dy, dtype, extra);
            for (const auto& [begin, end] : kIdRanges) {
              embedding_backward(gpu_dtable.rows(begin, end), gpu_dy, b.device.copy_of(ids), begin,
                                 b.gpu);
              embedding_backward(dtable.rows(begin, end), rounded(dy, dtype), ids, begin, b.cpu);
            }
            expect_identical(b.device.to_host(gpu_dtable, b.memory), dtable);
          }
        }
      }
    }
  }
}

TEST(EmbeddingCuda, MeasuresTheScratchMemoryItTakes) {
  RW_REQUIRE_GPU();
  Backends b;
  const Tensor dtable = b.device.copy_of(b.memory.zeros({5, 8}));
  const Tensor dy = b.device.copy_of(b.memory.normal({70, 8}), DType::kBF16);
  const Tensor ids = b.device.copy_of(b.memory.of<int32_t>({70}, repeating_ids(70, 5)));
  Stream measuring(b.gpu.device(), Stream::Mode::kMeasure);
  embedding_backward(dtable, dy, ids, 0, measuring);
  embedding_backward(dtable, dy, ids, 0, b.gpu);
  EXPECT_GT(measuring.scratch_peak_bytes(), 0u);
  EXPECT_EQ(measuring.scratch_peak_bytes(), b.gpu.scratch_peak_bytes());
}

}  // namespace
}  // namespace rankwise
