// SPDX-License-Identifier: Apache-2.0
// What this GPU can do at most, measured: the yardstick beside every kernel speed that is reported.
#pragma once

#include "runtime/stream.h"

namespace rankwise {

struct GpuCeiling {
  double bf16_tflops = 0.0;    // 8192^3 product of random bf16 matrices, sustained
  double fp32_tflops = 0.0;    // 4096^3 product, no TF32
  double copy_tb_per_s = 0.0;  // device copy, bytes read plus bytes written, 1e12 per second
};

// About a second and 1 GiB of device memory, freed at the end. Medians.
GpuCeiling measure_gpu_ceiling(Stream& stream);

}  // namespace rankwise
