// SPDX-License-Identifier: Apache-2.0
// The measurements of kernels/gpu_ceiling.h.
#pragma once

#include "kernels/gpu_ceiling.h"

namespace rankwise::cuda {

GpuCeiling measure_gpu_ceiling(Stream& stream);

}  // namespace rankwise::cuda
