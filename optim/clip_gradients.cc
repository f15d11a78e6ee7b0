// SPDX-License-Identifier: Apache-2.0
#include "optim/clip_gradients.h"

#include <array>
#include <cmath>
#include <vector>

#include "kernels/elementwise.h"
#include "runtime/transfer.h"

namespace rankwise {

ClipResult clip_gradients(std::span<const ParameterGroup> groups, double max_norm,
                          const DeviceMesh& mesh, const Tensor& sums, Stream& stream) {
  std::vector<Tensor> replicated;  // equal on all ranks: counted once
  std::vector<Tensor> sharded;     // this rank's share
  for (const ParameterGroup& group : groups) {
    for (const Parameter* parameter : group.parameters) {
      const bool is_sharded = parameter->gradient_spec().kind == ShardSpec::Kind::kSharded;
      (is_sharded ? sharded : replicated).push_back(parameter->gradient);
    }
  }
  fill(sums, 0.0f, stream);
  sum_of_squares(sums.rows(0, 1), replicated, stream);
  sum_of_squares(sums.rows(1, 2), sharded, stream);
  if (stream.measuring()) return {};
  std::array<double, 2> squares{};
  download(squares.data(), sums, stream);
  squares[1] = all_reduce_numbers(mesh.tensor(), {squares[1]}, ReduceOp::kSum, "gradient norm")[0];
  ClipResult result;
  result.norm = std::sqrt(squares[0] + squares[1]);
  if (max_norm <= 0.0) return result;
  const double factor = max_norm / (result.norm + 1e-6);
  // Written so that a NaN norm gives a NaN scale, as in torch: it must not pass for "no clipping".
  result.scale = factor >= 1.0 ? 1.0f : static_cast<float>(factor);
  return result;
}

}  // namespace rankwise
