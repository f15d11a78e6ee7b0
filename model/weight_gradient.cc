// SPDX-License-Identifier: Apache-2.0
#include "model/weight_gradient.h"

#include "kernels/embedding.h"
#include "kernels/matmul.h"

namespace rankwise {
namespace {

bool is_projected(const Parameter& parameter) {
  return parameter.projection != nullptr && !parameter.dense_gradient.defined();
}

const Tensor& target(const Parameter& parameter) {
  return parameter.dense_gradient.defined() ? parameter.dense_gradient : parameter.gradient;
}

}  // namespace

void accumulate_weight_gradient(const Parameter& weight, const Tensor& dy, const Tensor& x,
                                Stream& stream) {
  if (is_projected(weight)) {
    return projected_backward_weight(weight.gradient, dy, x, *weight.projection, stream);
  }
  linear_backward_weight(target(weight), dy, x, stream);
}

// The gradient is E^T dy with E[t] the unit vector of a token's id, so that E left is the embedding
// of the tokens by the table `left`.
void accumulate_embedding_gradient(const Parameter& table, const Tensor& dy, const Tensor& ids,
                                   int64_t first_id, Arena& arena, Stream& stream) {
  if (!is_projected(table)) {
    return embedding_backward(target(table), dy, ids, first_id, stream);
  }
  const auto scope = arena.scope("workspace");
  const auto& [left, right] = *table.projection;
  Tensor d = dy;
  if (right.defined()) {
    d = arena.allocate("workspace", DType::kF32, {dy.dim(0), right.dim(0)});
    project(d, dy, {{}, right}, stream);
  }
  if (!left.defined()) return embedding_backward(table.gradient, d, ids, first_id, stream);
  const Tensor rows = arena.allocate("workspace", d.dtype(), {dy.dim(0), left.dim(1)});
  embedding(rows, ids, left, first_id, stream);
  linear_backward_weight(table.gradient, rows, d, stream);
}

}  // namespace rankwise
