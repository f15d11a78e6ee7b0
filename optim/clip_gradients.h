// SPDX-License-Identifier: Apache-2.0
// Gradient clipping by the global norm over all trained parameters.
#pragma once

#include <span>

#include "optim/parameter_group.h"
#include "parallel/device_mesh.h"

namespace rankwise {

struct ClipResult {
  double norm = 0.0;   // before clipping
  float scale = 1.0f;  // min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_
};

// max_norm 0: no clipping, the norm is still computed. Nothing is written: the scale goes to the
// optimizer. Norms of sharded parameters are summed over the tensor axis. sums (2) F64 on the
// stream's device is working memory. Waits for the stream.
ClipResult clip_gradients(std::span<const ParameterGroup> groups, double max_norm,
                          const DeviceMesh& mesh, const Tensor& sums, Stream& stream);

}  // namespace rankwise
