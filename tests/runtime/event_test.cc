// SPDX-License-Identifier: Apache-2.0
#include "runtime/event.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace rankwise {
namespace {

TEST(Event, MeasuresHostTimeOnTheCpu) {
  Stream stream;
  Event begin, end;
  begin.record(stream);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  end.record(stream);
  end.wait();
  begin.hold_back(stream);
  EXPECT_GE(Event::seconds_between(begin, end), 0.02);
  EXPECT_LT(Event::seconds_between(begin, end), 20.0);
  EXPECT_EQ(Event::seconds_between(begin, begin), 0.0);
}

TEST(Event, CanBeRecordedAgain) {
  Stream stream;
  Event first, second;
  second.record(stream);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  first.record(stream);
  EXPECT_LT(Event::seconds_between(first, second), 0.0);
  second.record(stream);
  EXPECT_GE(Event::seconds_between(first, second), 0.0);
}

TEST(Event, NothingIsMarkedWhenMeasuring) {
  Stream measuring({}, Stream::Mode::kMeasure);
  Stream stream;
  Event begin, end;
  begin.record(stream);
  end.record(stream);
  const double before = Event::seconds_between(begin, end);
  end.record(measuring);
  EXPECT_EQ(Event::seconds_between(begin, end), before);
}

TEST(EventDeathTest, StreamOfAnotherDeviceAborts) {
  Stream elsewhere({DeviceKind::kCuda, 0}, Stream::Mode::kMeasure);
  Event event;
  EXPECT_DEATH(event.record(elsewhere), "event on cpu, stream on cuda:0");
}

}  // namespace
}  // namespace rankwise
