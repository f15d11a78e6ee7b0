// SPDX-License-Identifier: Apache-2.0
#include "kernels/gpu_ceiling.h"

#include "kernels/cuda/gpu_ceiling.h"
#include "runtime/errors.h"

namespace rankwise {

GpuCeiling measure_gpu_ceiling(Stream& stream) {
  RW_ASSERT(stream.is_cuda() && !stream.measuring(), "device {}", to_string(stream.device()));
  if constexpr (kHasCuda) return cuda::measure_gpu_ceiling(stream);
  return {};
}

}  // namespace rankwise
