// SPDX-License-Identifier: Apache-2.0
#include "launch/config/nearest_name.h"

#include <gtest/gtest.h>

#include <vector>

namespace rankwise {
namespace {

TEST(NearestName, DistanceCountsEdits) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("flaw", "lawn"), 2);
  EXPECT_EQ(edit_distance("rnak", "rank"), 1);
}

TEST(NearestName, FindsMisspellingsAndRefusesToGuess) {
  const std::vector<std::string> names = {"rank", "alpha", "dropout"};
  EXPECT_EQ(nearest_name("rnak", names), "rank");
  EXPECT_EQ(nearest_name("drop_out", names), "dropout");
  EXPECT_EQ(nearest_name("quantization", names), "");
  EXPECT_EQ(nearest_name(std::string(1'000'000, 'r'), names), "");
  EXPECT_EQ(nearest_name("rank", {}), "");
}

}  // namespace
}  // namespace rankwise
