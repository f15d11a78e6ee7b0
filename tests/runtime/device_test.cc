// SPDX-License-Identifier: Apache-2.0
#include "runtime/device.h"

#include <gtest/gtest.h>

#include "runtime/arena.h"
#include "runtime/event.h"
#include "runtime/stream.h"
#include "tests/support/error_of.h"

namespace rankwise {
namespace {

template <class Call>
std::string refusal_of(Call&& call) {
  if constexpr (kHasCuda) return testing::error_of<CommunicationError>(call);
  return testing::error_of<ConfigError>(call);
}

TEST(Device, HasAName) {
  EXPECT_EQ(to_string(Device{}), "cpu");
  EXPECT_EQ(to_string(Device{DeviceKind::kCuda, 1}), "cuda:1");
}

TEST(Device, CpuIsAlwaysThere) { EXPECT_NO_THROW(require_device({})); }

// The ordinal behind the last GPU, and one that no machine has.
TEST(Device, AbsentGpuIsRefusedByEveryOwner) {
  for (const int index : {gpu_count(), -1}) {
    const Device absent{DeviceKind::kCuda, index};
    const std::string message = refusal_of([&] { require_device(absent); });
    RW_EXPECT_HAS(message, "device " + to_string(absent) + ":");
    EXPECT_EQ(refusal_of([&] { Stream stream(absent); }), message);
    EXPECT_EQ(refusal_of([&] { Arena arena(absent); }), message);
    EXPECT_EQ(refusal_of([&] { Event event(absent); }), message);
    EXPECT_EQ(refusal_of([&] { static_cast<void>(gpu_properties(index)); }), message);
  }
}

TEST(Device, CpuWorkAllocatesNoDeviceMemory) {
  Arena arena;
  Stream stream;
  arena.allocate("weights", DType::kU8, Shape{100});
  stream.scratch(100);
  EXPECT_EQ(device_allocation_count(), 0);
}

}  // namespace
}  // namespace rankwise
