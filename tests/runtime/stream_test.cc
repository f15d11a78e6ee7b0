// SPDX-License-Identifier: Apache-2.0
#include "runtime/stream.h"

#include <gtest/gtest.h>

#include <cstring>

namespace rankwise {
namespace {

TEST(Stream, ScratchIsAlignedAndReused) {
  Stream stream;
  void* first = stream.scratch(1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
  std::memset(first, 1, 1000);
  EXPECT_EQ(stream.scratch(10), first);
  void* larger = stream.scratch(1 << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(larger) % 64, 0u);
  std::memset(larger, 1, 1 << 20);
  EXPECT_EQ(stream.scratch(1 << 20), larger);
  stream.synchronize();
}

TEST(Stream, MeasuringStreamHasNoMemory) {
  Stream stream({}, Stream::Mode::kMeasure);
  EXPECT_TRUE(stream.measuring());
  EXPECT_EQ(stream.scratch(size_t{1} << 50), nullptr);
}

}  // namespace
}  // namespace rankwise
