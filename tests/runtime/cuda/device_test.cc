// SPDX-License-Identifier: Apache-2.0
#include "runtime/device.h"

#include <gtest/gtest.h>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

TEST(CudaDevice, PropertiesDescribeTheGpu) {
  RW_REQUIRE_GPU();
  for (int index = 0; index < gpu_count(); ++index) {
    const GpuProperties gpu = gpu_properties(index);
    EXPECT_FALSE(gpu.name.empty());
    EXPECT_EQ(gpu.uuid.size(), 32u);
    EXPECT_GE(gpu.compute_major, 8);
    EXPECT_GT(gpu.multiprocessors, 0);
    EXPECT_GT(gpu.l2_bytes, 0);
    EXPECT_GT(gpu.free_bytes, 0);
    EXPECT_LE(gpu.free_bytes, gpu.memory_bytes);
  }
}

}  // namespace
}  // namespace rankwise
