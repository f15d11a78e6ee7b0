// SPDX-License-Identifier: Apache-2.0
#include "parallel/shard_spec.h"

#include <gtest/gtest.h>

#include "runtime/errors.h"
#include "tests/support/error_of.h"

namespace rankwise {
namespace {

TEST(ShardSpec, ReplicatedAndPartialHoldEverything) {
  for (const ShardSpec& spec : {ShardSpec::replicated(), ShardSpec::partial()}) {
    EXPECT_EQ(spec.local_shape({6, 4}, 1, 2, "w"), Shape({6, 4}));
    EXPECT_EQ(spec.range({6, 4}, 1, 2, "w").begin, 0);
    EXPECT_EQ(spec.range({6, 4}, 1, 2, "w").end, 6);
  }
}

TEST(ShardSpec, RangesTileTheDimension) {
  for (int dim : {0, 1, -1, -2}) {
    const Shape global{12, 8};
    int64_t next = 0;
    for (int rank = 0; rank < 4; ++rank) {
      const ShardSpec::Range range = ShardSpec::sharded(dim).range(global, rank, 4, "w");
      EXPECT_EQ(range.begin, next);
      next = range.end;
    }
    EXPECT_EQ(next, global.dim(dim));
  }
}

TEST(ShardSpec, LocalShapeDividesOnlyItsDimension) {
  EXPECT_EQ(ShardSpec::sharded(0).local_shape({12, 8}, 0, 4, "w"), Shape({3, 8}));
  EXPECT_EQ(ShardSpec::sharded(1).local_shape({12, 8}, 3, 4, "w"), Shape({12, 2}));
  EXPECT_EQ(ShardSpec::sharded(-1).local_shape({12, 8}, 3, 4, "w"), Shape({12, 2}));
}

TEST(ShardSpec, UnequalRangesTileAndDifferByAtMostOne) {
  const Shape global{10, 8};
  int64_t next = 0;
  for (int rank = 0; rank < 4; ++rank) {
    const ShardSpec::Range range = ShardSpec::sharded(0).range(global, rank, 4, "w");
    EXPECT_EQ(range.begin, next);
    EXPECT_TRUE(range.end - range.begin == 2 || range.end - range.begin == 3) << rank;
    next = range.end;
  }
  EXPECT_EQ(next, 10);
}

TEST(ShardSpec, CopiesAreHeldByNeighbours) {
  const ShardSpec spec = ShardSpec::sharded(0, 2);  // two key heads on four ranks
  for (int rank = 0; rank < 4; ++rank) {
    const ShardSpec::Range range = spec.range({6, 8}, rank, 4, "w");
    EXPECT_EQ(range.begin, rank < 2 ? 0 : 3);
    EXPECT_EQ(range.end, rank < 2 ? 3 : 6);
  }
}

TEST(ShardSpec, SliceIsTheRangeOfItsDimension) {
  const Shape global{12, 8};
  EXPECT_TRUE(ShardSpec::replicated().slice(global, 1, 4, "w").is_whole());
  const MatrixSlice rows = ShardSpec::sharded(0).slice(global, 1, 4, "w");
  EXPECT_EQ(rows.shape(), Shape({3, 8}));
  EXPECT_EQ(rows.first(), 24);
  const MatrixSlice columns = ShardSpec::sharded(1).slice(global, 3, 4, "w");
  EXPECT_EQ(columns.shape(), Shape({12, 2}));
  EXPECT_EQ(columns.first(), 6);
}

TEST(ShardSpec, MoreRangesThanElementsNameTheTensorAndTheKey) {
  const std::string message = testing::error_of<ConfigError>([] {
    ShardSpec::sharded(0).local_shape({3, 8}, 0, 4, "model.embed_tokens.weight");
  });
  RW_EXPECT_HAS(message, "parallel.tensor: model.embed_tokens.weight");
  RW_EXPECT_HAS(message, "4 parts");
}

}  // namespace
}  // namespace rankwise
