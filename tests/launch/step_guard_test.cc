// SPDX-License-Identifier: Apache-2.0
#include "launch/step_guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/error_of.h"

namespace rankwise {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// Mean 2, deviation 1 after an even number of values.
double wave(int i) { return i % 2 == 0 ? 1.0 : 3.0; }

StepGuard guard_after(int steps, const GuardSection& section = {}) {
  StepGuard guard(section);
  for (int i = 0; i < steps; ++i) guard.record(wave(i), wave(i), true, false);
  return guard;
}

TEST(SpikeWindow, CountsDeviationsFromTheMean) {
  SpikeWindow window;
  for (int i = 0; i < 31; ++i) window.push(wave(i), 6.0);
  EXPECT_EQ(window.sigmas(1e9), 0.0);  // of too few nothing is said
  window.push(wave(31), 6.0);
  EXPECT_DOUBLE_EQ(window.sigmas(2.0), 0.0);
  EXPECT_DOUBLE_EQ(window.sigmas(9.0), 7.0);
  EXPECT_LT(window.sigmas(-9.0), 0.0);  // falling is no spike
}

TEST(SpikeWindow, WhatHardlyVariesHasNoSpikesByLittle) {
  SpikeWindow window;
  for (int i = 0; i < 40; ++i) window.push(5.0, 6.0);
  EXPECT_LT(window.sigmas(5.2), 6.0);
  EXPECT_GT(window.sigmas(5.4), 6.0);
  SpikeWindow zeros;
  for (int i = 0; i < 40; ++i) zeros.push(0.0, 6.0);
  EXPECT_EQ(zeros.sigmas(1.0), 0.0);
}

TEST(SpikeWindow, ForgetsTheOldestAndIsNotBlindedByOneSpike) {
  SpikeWindow window;
  for (int i = 0; i < 1000; ++i) window.push(wave(i), 6.0);
  EXPECT_EQ(window.values().size(), SpikeWindow::kMost);
  window.push(1e30, 6.0);
  EXPECT_DOUBLE_EQ(window.values().back(), 8.0);  // mean and 6 deviations
  EXPECT_GT(window.sigmas(1e3), 6.0);
  int steps = 0;  // a new level is the usual one after a while
  for (; steps < 200 && window.sigmas(100.0) > 6.0; ++steps) window.push(100.0, 6.0);
  EXPECT_LT(steps, 128);
}

TEST(StepGuard, FindsWhatIsNotFiniteAndSpikesOfEither) {
  const StepGuard guard = guard_after(64);
  EXPECT_EQ(guard.judge(2.0, 2.0, true), StepFinding::kNone);
  for (const double bad : {kInf, -kInf, std::nan("")}) {
    EXPECT_EQ(guard.judge(bad, 2.0, true), StepFinding::kNotFinite);
    EXPECT_EQ(guard.judge(2.0, bad, false), StepFinding::kNotFinite);
  }
  EXPECT_EQ(guard.judge(9.0, 2.0, true), StepFinding::kSpike);
  EXPECT_EQ(guard.judge(2.0, 9.0, true), StepFinding::kSpike);
  EXPECT_EQ(guard.judge(2.0, 9.0, false), StepFinding::kNone);
  EXPECT_EQ(guard.describe_spike(9.0, 10.0, true),
            "gradient norm 10 is 8.0 standard deviations above the mean of the last 64 steps");
  EXPECT_EQ(guard.describe_spike(9.0, 10.0, false),
            "loss 9 is 7.0 standard deviations above the mean of the last 64 steps");
}

TEST(StepGuard, WithoutSigmaThereAreNoSpikes) {
  const StepGuard guard = guard_after(64, {.spike_sigma = 0.0});
  EXPECT_EQ(guard.judge(1e30, 1e30, true), StepFinding::kNone);
  EXPECT_EQ(guard.judge(kInf, 1.0, true), StepFinding::kNotFinite);
}

TEST(StepGuard, ActsAsConfigured) {
  const StepGuard guard({.nan = GuardAction::kSkip, .spike = GuardAction::kStop});
  EXPECT_EQ(guard.action(StepFinding::kNotFinite), GuardAction::kSkip);
  EXPECT_EQ(guard.action(StepFinding::kSpike), GuardAction::kStop);
}

TEST(StepGuard, CountsSkippedStepsUpToItsLimit) {
  StepGuard guard = guard_after(3, {.max_skips = 2});
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(guard.is_at_limit());
    guard.record(kInf, kInf, true, true);
  }
  EXPECT_TRUE(guard.is_at_limit());
  guard.record(1.0, 1.0, true, false);
  EXPECT_FALSE(guard.is_at_limit());
  EXPECT_EQ(guard.skipped(), 2);
  EXPECT_EQ(guard.skipped_in_row(), 0);
}

TEST(StepGuard, WhatIsNotFiniteEntersNoStatistics) {
  StepGuard guard = guard_after(64);
  const Json before = guard.state();
  for (const double bad : {kInf, std::nan("")}) guard.record(bad, bad, true, true);
  EXPECT_EQ(guard.state()["losses"], before["losses"]);
  EXPECT_EQ(guard.state()["norms"], before["norms"]);
}

TEST(StepGuard, GoesOnFromItsStateBitForBit) {
  StepGuard first = guard_after(50);
  for (int i = 0; i < 60; ++i) {
    first.record(std::sqrt(2.0 + i), std::exp(0.01 * i), i % 3 > 0, i % 7 == 0);
  }
  StepGuard second({});
  second.restore(Json::parse(first.state().dump()));
  for (int i = 0; i < 200; ++i) {
    first.record(std::log(2.0 + i), 1.0 / (3.0 + i), true, false);
    second.record(std::log(2.0 + i), 1.0 / (3.0 + i), true, false);
    EXPECT_EQ(first.describe_spike(9.0, 9.0, true), second.describe_spike(9.0, 9.0, true));
  }
  EXPECT_EQ(first.state(), second.state());
}

}  // namespace
}  // namespace rankwise
