// SPDX-License-Identifier: Apache-2.0
#include "parallel/shard_spec.h"

#include <gtest/gtest.h>

#include "runtime/errors.h"

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

TEST(ShardSpec, UnequalPartsNameTheTensorAndTheKey) {
  try {
    ShardSpec::sharded(0).local_shape({10, 8}, 0, 4, "model.embed_tokens.weight");
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("model.embed_tokens.weight"), std::string::npos);
    EXPECT_NE(message.find("parallel.tensor"), std::string::npos);
    EXPECT_NE(message.find("10"), std::string::npos);
  }
}

}  // namespace
}  // namespace rankwise
