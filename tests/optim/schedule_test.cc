// SPDX-License-Identifier: Apache-2.0
#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "runtime/errors.h"

namespace rankwise {
namespace {

TEST(Schedule, WarmUpRisesLinearlyAndNeverIsZero) {
  for (ScheduleKind kind :
       {ScheduleKind::kConstant, ScheduleKind::kLinear, ScheduleKind::kCosine}) {
    const Schedule schedule(kind, 0.8, 0.0, 4, 20);
    EXPECT_DOUBLE_EQ(schedule.at(0), 0.2);
    EXPECT_DOUBLE_EQ(schedule.at(1), 0.4);
    EXPECT_DOUBLE_EQ(schedule.at(3), 0.8);
    EXPECT_DOUBLE_EQ(schedule.at(4), 0.8);
  }
}

TEST(Schedule, ConstantStays) {
  const Schedule schedule(ScheduleKind::kConstant, 2e-4, 0.0, 0, 10);
  EXPECT_EQ(schedule.at(0), 2e-4);
  EXPECT_EQ(schedule.at(9), 2e-4);
  EXPECT_EQ(schedule.at(1000), 2e-4);
}

TEST(Schedule, LinearReachesTheMinimumAtTheEnd) {
  const Schedule schedule(ScheduleKind::kLinear, 1.0, 0.2, 2, 10);
  EXPECT_DOUBLE_EQ(schedule.at(4), 0.8);
  EXPECT_DOUBLE_EQ(schedule.at(6), 0.6);
  EXPECT_DOUBLE_EQ(schedule.at(10), 0.2);
  EXPECT_DOUBLE_EQ(schedule.at(50), 0.2);
}

TEST(Schedule, CosineFollowsHalfAWave) {
  const Schedule schedule(ScheduleKind::kCosine, 1.0, 0.1, 0, 8);
  EXPECT_DOUBLE_EQ(schedule.at(0), 1.0);
  EXPECT_NEAR(schedule.at(2), 0.1 + 0.9 * 0.5 * (1.0 + std::sqrt(0.5)), 1e-15);
  EXPECT_NEAR(schedule.at(4), 0.55, 1e-15);
  EXPECT_NEAR(schedule.at(8), 0.1, 1e-15);
  EXPECT_NEAR(schedule.at(9), 0.1, 1e-15);
}

TEST(Schedule, WarmUpMayFillTheRun) {
  const Schedule schedule(ScheduleKind::kCosine, 1.0, 0.0, 5, 5);
  EXPECT_EQ(schedule.at(4), 1.0);
}

TEST(Schedule, RefusesAWarmUpLongerThanTheRun) {
  EXPECT_THROW(Schedule(ScheduleKind::kCosine, 1.0, 0.0, 11, 10), ConfigError);
  EXPECT_THROW(Schedule(ScheduleKind::kCosine, 1.0, 0.0, -1, 10), ConfigError);
}

TEST(Schedule, RefusesRatesOutOfOrder) {
  EXPECT_THROW(Schedule(ScheduleKind::kLinear, 1e-4, 2e-4, 0, 10), ConfigError);
  EXPECT_THROW(Schedule(ScheduleKind::kLinear, -1e-4, 0.0, 0, 10), ConfigError);
  EXPECT_THROW(Schedule(ScheduleKind::kLinear, std::nan(""), 0.0, 0, 10), ConfigError);
}

}  // namespace
}  // namespace rankwise
