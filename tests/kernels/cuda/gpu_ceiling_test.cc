// SPDX-License-Identifier: Apache-2.0
#include "kernels/gpu_ceiling.h"

#include <gtest/gtest.h>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

TEST(GpuCeiling, FiguresArePossibleAndMemoryIsGivenBack) {
  RW_REQUIRE_GPU();
  Stream stream(Device{DeviceKind::kCuda, 0});
  measure_gpu_ceiling(stream);  // the first call also loads libraries, which keep memory
  const int64_t free_before = gpu_properties(0).free_bytes;
  const GpuCeiling ceiling = measure_gpu_ceiling(stream);
  EXPECT_GT(ceiling.bf16_tflops, 1.0);
  EXPECT_LT(ceiling.bf16_tflops, 5000.0);
  EXPECT_GT(ceiling.fp32_tflops, 0.5);
  EXPECT_LT(ceiling.fp32_tflops, ceiling.bf16_tflops);
  EXPECT_GT(ceiling.copy_tb_per_s, 0.05);
  EXPECT_LT(ceiling.copy_tb_per_s, 20.0);
  EXPECT_GE(gpu_properties(0).free_bytes, free_before - (int64_t{64} << 20));
}

}  // namespace
}  // namespace rankwise
