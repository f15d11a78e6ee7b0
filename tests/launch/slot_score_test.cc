// SPDX-License-Identifier: Apache-2.0
#include "launch/slot_score.h"

#include <gtest/gtest.h>

namespace rankwise {
namespace {

TEST(SlotScore, CountsWholeAnswersAndSingleSlots) {
  SlotScore score;
  score.add("Copper Kettle | ramen | low", "Copper Kettle | ramen | low");
  score.add("Copper Kettle | ramen | low", "Copper Kettle | tacos | low");
  EXPECT_EQ(score.rows, 2);
  EXPECT_EQ(score.exact_rows, 1);
  EXPECT_EQ(score.slots, 6);
  EXPECT_EQ(score.right_slots, 5);
  EXPECT_DOUBLE_EQ(score.exact_match(), 0.5);
  EXPECT_DOUBLE_EQ(score.slot_accuracy(), 5.0 / 6.0);
}

TEST(SlotScore, BlanksAtTheEndsDoNotMatterButOthersDo) {
  SlotScore score;
  score.add("a b | c", " a b | c\n");
  EXPECT_EQ(score.exact_rows, 1);
  score.add("a b | c", "ab | c");
  EXPECT_EQ(score.exact_rows, 1);
  EXPECT_EQ(score.right_slots, 3);
}

TEST(SlotScore, SurplusAndMissingSlotsAreWrong) {
  SlotScore score;
  score.add("a | b", "a | b | c");
  score.add("a | b", "a");
  score.add("a | b", "");
  EXPECT_EQ(score.exact_rows, 0);
  EXPECT_EQ(score.slots, 6);
  EXPECT_EQ(score.right_slots, 3);
}

TEST(SlotScore, SlotsInTheWrongPlaceAreWrong) {
  SlotScore score;
  score.add("a | b", "b | a");
  EXPECT_EQ(score.right_slots, 0);
}

TEST(SlotScore, NothingScoredIsZeroNotNan) {
  EXPECT_EQ(SlotScore{}.exact_match(), 0.0);
  EXPECT_EQ(SlotScore{}.slot_accuracy(), 0.0);
}

}  // namespace
}  // namespace rankwise
