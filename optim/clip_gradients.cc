// SPDX-License-Identifier: Apache-2.0
#include "optim/clip_gradients.h"

#include <cmath>

#include "kernels/elementwise.h"

namespace rankwise {

ClipResult clip_gradients(std::span<const ParameterGroup> groups, double max_norm,
                          const DeviceMesh& mesh, Stream& stream) {
  double replicated = 0.0;  // equal on all ranks: counted once
  double sharded = 0.0;     // this rank's share
  for (const ParameterGroup& group : groups) {
    for (const Parameter* parameter : group.parameters) {
      const bool is_sharded = parameter->spec.kind == ShardSpec::Kind::kSharded;
      const Tensor sum(is_sharded ? &sharded : &replicated, DType::kF64, {1});
      sum_of_squares(sum, parameter->gradient, stream);
    }
  }
  if (stream.measuring()) return {};
  sharded = all_reduce_numbers(mesh.tensor(), {sharded}, ReduceOp::kSum, "gradient norm")[0];
  ClipResult result;
  result.norm = std::sqrt(replicated + sharded);
  if (max_norm <= 0.0) return result;
  const double factor = max_norm / (result.norm + 1e-6);
  // Written so that a NaN norm gives a NaN scale, as in torch: it must not pass for "no clipping".
  result.scale = factor >= 1.0 ? 1.0f : static_cast<float>(factor);
  return result;
}

}  // namespace rankwise
