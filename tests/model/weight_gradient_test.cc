// SPDX-License-Identifier: Apache-2.0
#include "model/weight_gradient.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::expect_near;
using testing::GuardedMemory;

constexpr int64_t kRows = 11, kWidth = 7, kRank = 3, kTokens = 29, kFirstId = 100;

// Two micro-batches into a gradient that the projection has made small, against the projection of
// the whole gradient; and into the whole one while there is room for it.
template <class Accumulate, class Whole>
void expect_projected(const Accumulate& accumulate, const Whole& accumulate_whole) {
  GuardedMemory memory;
  Stream stream;
  const Tensor left = memory.normal({kRows, kRank}), right = memory.normal({kRank, kWidth});
  for (const Projection& projection :
       {Projection{left, {}}, Projection{{}, right}, Projection{left, right}}) {
    Parameter parameter;
    parameter.weight = memory.zeros({kRows, kWidth});
    parameter.projection = &projection;
    parameter.gradient = memory.zeros(parameter.gradient_shape());
    const Tensor whole = memory.zeros({kRows, kWidth}), dense = memory.zeros({kRows, kWidth});
    for (int batch = 0; batch < 2; ++batch) {
      const Tensor dy = memory.normal({kTokens, kWidth}, 1.0f);
      accumulate(parameter, dy);
      accumulate_whole(whole, dy);
      parameter.dense_gradient = dense;
      accumulate(parameter, dy);
      parameter.dense_gradient = {};
    }
    const Tensor expected = memory.zeros(parameter.gradient_shape());
    project(expected, whole, projection, stream);
    expect_near(parameter.gradient, expected, 1e-5);
    expect_near(dense, whole, 1e-6);
  }
}

TEST(WeightGradient, OfAnEmbeddingIsProjectedByAssociativity) {
  GuardedMemory memory;
  Stream stream;
  Arena arena;
  std::vector<int32_t> ids;
  for (int32_t t = 0; t < kTokens; ++t) ids.push_back(kFirstId - 2 + t * t % (kRows + 4));
  const Tensor id_tensor(ids.data(), DType::kI32, {kTokens});  // some of other ranks' rows
  expect_projected(
      [&](const Parameter& table, const Tensor& dy) {
        accumulate_embedding_gradient(table, dy, id_tensor, kFirstId, arena, stream);
      },
      [&](const Tensor& whole, const Tensor& dy) {
        embedding_backward(whole, dy, id_tensor, kFirstId, stream);
      });
}

TEST(WeightGradient, OfAMatrixIsProjectedByAssociativity) {
  GuardedMemory memory;
  Stream stream;
  const Tensor dy_of_head = memory.normal({kTokens, kRows});
  expect_projected(
      [&](const Parameter& weight, const Tensor& x) {
        accumulate_weight_gradient(weight, dy_of_head, x, stream);
      },
      [&](const Tensor& whole, const Tensor& x) {
        linear_backward_weight(whole, dy_of_head, x, stream);
      });
}

}  // namespace
}  // namespace rankwise
