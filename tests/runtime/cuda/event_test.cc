// SPDX-License-Identifier: Apache-2.0
#include "runtime/event.h"

#include <gtest/gtest.h>

#include <vector>

#include "runtime/errors.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};
constexpr int64_t kBytes = int64_t{64} << 20;

TEST(CudaEvent, MeasuresDeviceTime) {
  RW_REQUIRE_GPU();
  Stream stream(kGpu);
  Arena arena(kGpu);
  const Tensor tensor = arena.allocate("test", DType::kU8, {kBytes});
  const std::vector<uint8_t> values(static_cast<size_t>(kBytes), uint8_t{3});
  Event begin(kGpu), end(kGpu);
  begin.record(stream);
  upload(tensor, values.data(), stream);
  end.record(stream);
  end.wait();
  const double seconds = Event::seconds_between(begin, end);
  EXPECT_GT(seconds, static_cast<double>(kBytes) / 1e12);  // no link carries 1 TB/s
  EXPECT_LT(seconds, 10.0);
}

// The reader is another stream; without the mark it would run ahead of the copies.
TEST(CudaEvent, HoldsBackAnotherStreamUntilTheMark) {
  RW_REQUIRE_GPU();
  Stream writer(kGpu), reader(kGpu);
  Arena arena(kGpu);
  const Tensor tensor = arena.allocate("test", DType::kU8, {kBytes});
  Event written(kGpu);
  std::vector<uint8_t> got(static_cast<size_t>(kBytes));
  for (int round = 1; round <= 4; ++round) {
    const auto value = static_cast<uint8_t>(round);
    const std::vector<uint8_t> values(static_cast<size_t>(kBytes), value);
    upload(tensor, values.data(), writer);
    written.record(writer);
    written.hold_back(reader);
    download(got.data(), tensor, reader);
    ASSERT_TRUE(got == values) << "round " << round;
  }
}

TEST(CudaEvent, WaitWithoutAMarkReturnsAtOnce) {
  RW_REQUIRE_GPU();
  const Event event(kGpu);
  EXPECT_NO_THROW(event.wait());
}

TEST(CudaEvent, TimeBetweenUnmarkedEventsIsAnError) {
  RW_REQUIRE_GPU();
  const Event begin(kGpu), end(kGpu);
  EXPECT_THROW(static_cast<void>(Event::seconds_between(begin, end)), CommunicationError);
  Stream stream(kGpu);
  EXPECT_NO_THROW(stream.synchronize());  // the error is gone
}

}  // namespace
}  // namespace rankwise
