// SPDX-License-Identifier: Apache-2.0
#include "launch/replica_check.h"

#include <gtest/gtest.h>

#include "tests/support/error_of.h"

namespace rankwise {
namespace {

const std::vector<std::string> kNames = {"a", "b"};

TEST(ReplicaCheck, FindsNoDifferenceBetweenReplicas) {
  EXPECT_EQ(find_difference(std::vector<int64_t>{1, 2, 1, 2}, kNames, {false, false}, 1),
            std::nullopt);
  // Parts of b lie on ranks 0, 2 and 1, 3.
  EXPECT_EQ(find_difference(std::vector<int64_t>{1, 2, 1, 3, 1, 2, 1, 3}, kNames, {false, true}, 2),
            std::nullopt);
  // Each has a part of its own.
  EXPECT_EQ(find_difference(std::vector<int64_t>{1, 2, 1, 3}, kNames, {false, true}, 2),
            std::nullopt);
}

TEST(ReplicaCheck, NamesTheRanksAndTheFirstTensor) {
  EXPECT_EQ(find_difference(std::vector<int64_t>{1, 2, 1, 9, 1, 2}, kNames, {false, false}, 1),
            "rank 1 holds other bits than the other 2 of 'b'");
  EXPECT_EQ(find_difference(std::vector<int64_t>{7, 8, 1, 2, 1, 2}, kNames, {false, false}, 1),
            "rank 0 holds other bits than the other 2 of 'a' (the first of 2 tensors)");
  EXPECT_EQ(find_difference(std::vector<int64_t>{1, 2, 1, 9}, kNames, {false, false}, 1),
            "ranks 0, 1 hold different bits of 'b'");
  EXPECT_EQ(find_difference(std::vector<int64_t>{1, 2, 3, 2, 1, 2, 4, 2, 1, 2}, kNames,
                            {false, false}, 1),
            "ranks 1, 3 hold other bits than the other 3 of 'a'");
  EXPECT_EQ(find_difference(std::vector<int64_t>{1, 2, 1, 3, 1, 2, 1, 4}, kNames, {false, true}, 2),
            "ranks 1, 3 hold different bits of 'b'");
}

}  // namespace
}  // namespace rankwise
