// SPDX-License-Identifier: Apache-2.0
#include "runtime/stream.h"

#include <gtest/gtest.h>

#include <cstring>

#include "runtime/arena.h"

namespace rankwise {
namespace {

TEST(Stream, ScratchIsAlignedAndReused) {
  Stream stream;
  void* first = stream.scratch(1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 256, 0u);
  std::memset(first, 1, 1000);
  EXPECT_EQ(stream.scratch(10), first);
  void* larger = stream.scratch(1 << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(larger) % 256, 0u);
  std::memset(larger, 1, 1 << 20);
  EXPECT_EQ(stream.scratch(1 << 20), larger);
  EXPECT_EQ(stream.scratch_peak_bytes(), size_t{1} << 20);
  stream.synchronize();
}

TEST(Stream, LentScratchIsAllThereIs) {
  Arena arena;
  const Tensor memory = arena.allocate("scratch", DType::kU8, {1000});
  Stream stream;
  stream.lend_scratch(memory.raw(), 1000);
  EXPECT_EQ(stream.scratch(10), memory.raw());
  EXPECT_EQ(stream.scratch(1000), memory.raw());
  EXPECT_DEATH(stream.scratch(1001), "1001 bytes of scratch, 1000 lent");
  EXPECT_DEATH(stream.lend_scratch(memory.raw(), 1000), "lent to a stream that has 1000 bytes");
}

TEST(Stream, ReservedScratchIsReused) {
  Stream stream;
  stream.reserve_scratch(5000);
  void* reserved = stream.scratch(1);
  EXPECT_NE(reserved, nullptr);
  EXPECT_EQ(stream.scratch(5000), reserved);
}

struct Handle {
  explicit Handle(Stream& stream) : device(stream.device()) { ++alive; }
  ~Handle() { --alive; }
  Device device;
  int value = 0;
  static int alive;
};
int Handle::alive = 0;

TEST(Stream, KeepsOneStatePerType) {
  {
    Stream stream;
    EXPECT_EQ(Handle::alive, 0);
    stream.state<Handle>().value = 3;
    EXPECT_EQ(stream.state<Handle>().value, 3);
    Stream other;
    EXPECT_EQ(other.state<Handle>().value, 0);
    EXPECT_EQ(Handle::alive, 2);
  }
  EXPECT_EQ(Handle::alive, 0);
}

TEST(Stream, MeasuringStreamHasNoMemoryAndNeedsNoDevice) {
  Stream stream({DeviceKind::kCuda, 7}, Stream::Mode::kMeasure);
  EXPECT_TRUE(stream.measuring());
  EXPECT_EQ(stream.native(), nullptr);
  EXPECT_EQ(stream.scratch(size_t{1} << 50), nullptr);
  EXPECT_EQ(stream.scratch(10), nullptr);
  EXPECT_EQ(stream.scratch_peak_bytes(), size_t{1} << 50);
  stream.synchronize();
}

}  // namespace
}  // namespace rankwise
