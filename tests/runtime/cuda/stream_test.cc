// SPDX-License-Identifier: Apache-2.0
#include "runtime/stream.h"

#include <gtest/gtest.h>

#include "runtime/errors.h"
#include "tests/support/device_memory.h"
#include "tests/support/error_of.h"

namespace rankwise {
namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};

TEST(CudaStream, ScratchGrowsToWhatIsAskedAndIsReused) {
  RW_REQUIRE_GPU();
  Stream stream(kGpu);
  EXPECT_NE(stream.native(), nullptr);
  void* first = stream.scratch(1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 256, 0u);
  const int64_t before = device_allocation_count();
  EXPECT_EQ(stream.scratch(10), first);
  EXPECT_EQ(stream.scratch(1000), first);
  EXPECT_EQ(device_allocation_count(), before);
  stream.reserve_scratch(3 << 20);
  EXPECT_EQ(device_allocation_count(), before + 1);
  EXPECT_EQ(stream.scratch_peak_bytes(), size_t{3} << 20);
  void* reserved = stream.scratch(1);
  EXPECT_EQ(stream.scratch(3 << 20), reserved);
  EXPECT_EQ(device_allocation_count(), before + 1);
}

TEST(CudaStream, ScratchBeyondTheDeviceIsRefusedAndLeavesTheStreamUsable) {
  RW_REQUIRE_GPU();
  Stream stream(kGpu);
  const std::string message =
      testing::error_of<OutOfMemoryError>([&] { stream.scratch(size_t{1} << 50); });
  RW_EXPECT_HAS(message, "scratch memory of cuda:0: 1125899906842624 bytes not available");
  EXPECT_NE(stream.scratch(100), nullptr);
  stream.synchronize();
}

// The freed scratch may be the target of a copy that is still under way.
TEST(CudaStream, GrowingAndEndingWaitForWorkUnderWay) {
  RW_REQUIRE_GPU();
  constexpr int64_t kBytes = 64 << 20;
  const std::vector<uint8_t> zeros(static_cast<size_t>(kBytes));
  for (int pass = 0; pass < 3; ++pass) {
    Stream stream(kGpu);
    const Tensor old(stream.scratch(kBytes), DType::kU8, {kBytes}, kGpu);
    upload(old, zeros.data(), stream);
    const Tensor grown(stream.scratch(2 * kBytes), DType::kU8, {kBytes}, kGpu);
    upload(grown, zeros.data(), stream);
  }
  Stream stream(kGpu);
  EXPECT_NO_THROW(stream.synchronize());
}

}  // namespace
}  // namespace rankwise
