// SPDX-License-Identifier: Apache-2.0
#include "parallel/activity.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

namespace rankwise {
namespace {

TEST(Activity, TellsTheLastOperationAndItsPatience) {
  Activity activity;
  activity.report("load a", 10);
  EXPECT_EQ(activity.status().operation, "load a");
  EXPECT_EQ(activity.status().patience, 10);
  EXPECT_FALSE(activity.status().in_collective);
  activity.begin_collective("reduce");
  EXPECT_TRUE(activity.status().in_collective);
  EXPECT_EQ(activity.status().collectives, 1u);
  EXPECT_EQ(activity.status().doing(), "'reduce' of 'load a'");
  activity.end_collective();
  EXPECT_EQ(activity.status().doing(), "'load a'") << "back at what the collective was part of";
  EXPECT_EQ(activity.status().patience, 10);
}

TEST(Activity, CollectiveIsToldAloneWhenItIsPartOfNothingElse) {
  Activity activity;
  activity.begin_collective("reduce");
  EXPECT_EQ(activity.status().doing(), "'reduce'");
  activity.report("reduce");
  activity.begin_collective("reduce");
  EXPECT_EQ(activity.status().doing(), "'reduce'");
}

TEST(Activity, WorkRepeatsOnlyWhenItSaysSo) {
  Activity activity;
  activity.report("step 1", 10, /*repeats=*/true);
  activity.begin_collective("reduce");
  EXPECT_TRUE(activity.status().repeats);
  activity.report("save", 10);
  EXPECT_FALSE(activity.status().repeats);
}

TEST(Activity, TimeAfterACollectiveIsCountedFromItsEnd) {
  Activity activity;
  activity.begin_collective("reduce");
  const auto begun = activity.status().since;
  while (Activity::Clock::now() == begun) {
  }
  activity.end_collective();
  EXPECT_GT(activity.status().since, begun);
  EXPECT_EQ(activity.status().operation, "reduce");
}

TEST(Activity, ObserverSeesEveryBeginningAndMayThrow) {
  Activity activity;
  std::vector<std::string> seen;
  activity.set_observer([&](std::string_view operation) {
    seen.emplace_back(operation);
    if (operation == "step 2") throw std::runtime_error("here");
  });
  activity.report("step 1");
  activity.begin_collective("reduce");
  EXPECT_THROW(activity.report("step 2"), std::runtime_error);
  EXPECT_EQ(activity.status().operation, "step 2");
  EXPECT_EQ(seen, (std::vector<std::string>{"step 1", "reduce", "step 2"}));
}

}  // namespace
}  // namespace rankwise
