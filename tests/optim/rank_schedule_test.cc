// SPDX-License-Identifier: Apache-2.0
#include "optim/rank_schedule.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "runtime/errors.h"
#include "tests/support/error_of.h"

namespace rankwise {
namespace {

constexpr RankScheduleOptions kOptions{
    .init_rank = 12, .target_rank = 8, .warmup = 100, .final = 300, .interval = 10};

// 72 matrices: from 864 to 576 in steps 101 to 700 of 1000.
TEST(RankSchedule, FollowsTheTableOfTheCubicBudget) {
  const RankSchedule schedule(kOptions, 72, 1000);
  struct Row {
    int64_t step, budget;
    bool masks;
  };
  for (const auto& [step, budget, masks] : std::vector<Row>{{0, 864, false},
                                                            {100, 864, false},
                                                            {101, 862, false},
                                                            {110, 849, true},
                                                            {200, 742, true},
                                                            {300, 661, true},
                                                            {400, 612, true},
                                                            {500, 586, true},
                                                            {600, 577, true},
                                                            {690, 576, true},
                                                            {699, 576, false},
                                                            {700, 576, true},
                                                            {701, 576, true},
                                                            {705, 576, true},
                                                            {999, 576, true}}) {
    EXPECT_EQ(schedule.budget(step), budget) << "step " << step;
    EXPECT_EQ(schedule.masks(step), masks) << "step " << step;
  }
}

TEST(RankSchedule, NeverRisesAndDecidesLastWhereTheImportanceIsFrozen) {
  const RankSchedule schedule(kOptions, 72, 1000);
  EXPECT_EQ(schedule.initial_budget(), 864);
  for (int64_t step = 1; step < 1000; ++step) {
    EXPECT_LE(schedule.budget(step), schedule.budget(step - 1));
    EXPECT_EQ(schedule.measures(step), step < 700);
    EXPECT_EQ(schedule.decides(step), step == 700 || (step > 100 && step < 700 && step % 10 == 0));
  }
}

TEST(RankSchedule, DecidesAtTheEndOfTheBudgetWhateverTheInterval) {
  RankScheduleOptions options = kOptions;
  options.interval = 37;
  const RankSchedule schedule(options, 72, 1000);
  EXPECT_TRUE(schedule.decides(700));
  EXPECT_FALSE(schedule.decides(701));
  EXPECT_TRUE(schedule.masks(701));
}

// What PEFT 0.21 leaves active of 14 matrices in a run of 48 steps.
TEST(RankSchedule, GivesTheActiveTripletsOfPeft) {
  const RankSchedule schedule(
      {.init_rank = 6, .target_rank = 3, .warmup = 6, .final = 12, .interval = 3}, 14, 48);
  const std::vector<int64_t> chosen{72, 63, 56, 51, 47, 44, 43, 42, 42, 42};  // steps 9, 12, ...
  for (int64_t step = 0; step < 48; ++step) {
    int64_t expected = 84;
    if (step > 36) expected = 42;
    if (step >= 9 && step <= 36 && step % 3 == 0) {
      expected = chosen[static_cast<size_t>(step / 3 - 3)];
    }
    EXPECT_EQ(schedule.masks(step) ? schedule.budget(step) : 84, expected) << "step " << step;
  }
}

TEST(RankSchedule, EqualRanksKeepEverything) {
  RankScheduleOptions options = kOptions;
  options.target_rank = 12;
  const RankSchedule schedule(options, 2, 1000);
  for (int64_t step = 0; step < 1000; ++step) EXPECT_EQ(schedule.budget(step), 24);
}

TEST(RankSchedule, RefusesSettingsThatCannotWork) {
  const auto refusal = [](const std::function<void(RankScheduleOptions&)>& change,
                          int64_t total = 1000) {
    RankScheduleOptions options = kOptions;
    change(options);
    return testing::error_of<ConfigError>([&] { RankSchedule(options, 72, total); });
  };
  EXPECT_EQ(refusal([](auto& o) { o.init_rank = 0; }), "adalora.init_rank: 0, must be at least 1");
  EXPECT_EQ(refusal([](auto& o) { o.target_rank = 13; }),
            "adalora.target_rank: 13, allowed are 1 to adalora.init_rank (12)");
  EXPECT_EQ(refusal([](auto& o) { o.target_rank = 0; }),
            "adalora.target_rank: 0, allowed are 1 to adalora.init_rank (12)");
  EXPECT_EQ(refusal([](auto& o) { o.interval = 0; }),
            "adalora.interval: 0 steps, must be at least 1");
  EXPECT_EQ(refusal([](auto& o) { o.warmup = -1; }), "adalora.warmup: -1 steps");
  EXPECT_EQ(refusal([](auto& o) { o.final = 0; }),
            "adalora.final: 0 steps, must be at least 1: the budget is met there");
  EXPECT_EQ(refusal([](auto&) {}, 400),
            "adalora: warmup 100 + final 300 leave none of the run's 400 steps for the choice of "
            "ranks");
  EXPECT_EQ(refusal([](auto& o) { o.beta1 = 1.0; }), "adalora.beta1: 1, must lie between 0 and 1");
  EXPECT_EQ(refusal([](auto& o) { o.beta2 = 0.0; }), "adalora.beta2: 0, must lie between 0 and 1");
  EXPECT_NO_THROW(RankSchedule(kOptions, 72, 401));
}

TEST(RankSchedule, RefusesToResumeAnotherSchedule) {
  const RankSchedule schedule(kOptions, 72, 1000);
  EXPECT_NO_THROW(schedule.require_same(RankSchedule(kOptions, 72, 1000).settings()));
  EXPECT_EQ(testing::error_of<ConfigError>(
                [&] { schedule.require_same(RankSchedule(kOptions, 72, 1200).settings()); }),
            "train.steps: 1000, but the run that is resumed has 1200: the budget of AdaLoRA would "
            "jump");
  RankScheduleOptions other = kOptions;
  other.target_rank = 4;
  RW_EXPECT_HAS(testing::error_of<ConfigError>(
                    [&] { schedule.require_same(RankSchedule(other, 72, 1000).settings()); }),
                "adalora.target_rank: 8, but");
}

}  // namespace
}  // namespace rankwise
