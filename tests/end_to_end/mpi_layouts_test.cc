// SPDX-License-Identifier: Apache-2.0
// Runs under mpirun with 2 and 4 ranks.
#include <set>

#include "tests/end_to_end/golden_layouts.h"

namespace rankwise::testing {
namespace {

TEST(MpiLayouts, EveryLayoutTrainsAsOneRank) {
  RW_REQUIRE_SHARED();
  const GoldenLayouts run;
  const SmallRunResult alone = run.alone({});
  ASSERT_EQ(alone.losses.size(), 60u);
  const std::string tensor = fmt::format("parallel.tensor={}", world().size());
  for (const std::vector<std::string>& layout :
       {std::vector<std::string>{"parallel.tensor=1"},
        {"parallel.tensor=2"},
        {tensor},
        {"parallel.shard_base=data"},
        {"parallel.tensor=2", "parallel.shard_base=data"}}) {
    run.expect_losses(alone, 1e-4, layout);
  }
}

// Losses, and of AdaLoRA every choice of triplets.
TEST(MpiLayouts, EveryMethodTrainsAsOnOneRank) {
  RW_REQUIRE_SHARED();
  const GoldenLayouts run;
  for (const std::vector<std::string>& method : other_methods()) {
    const SmallRunResult alone = run.alone(method);
    ASSERT_EQ(alone.losses.size(), 12u);
    EXPECT_LT(alone.losses.back(), 0.95 * alone.losses.front());
    for (const int tensor : std::set<int>{1, 2, world().size()}) {
      std::vector<std::string> overrides = method;
      overrides.push_back(fmt::format("parallel.tensor={}", tensor));
      run.expect_losses(alone, 1e-4, overrides);
    }
    if (trains_weights(method)) continue;  // only a frozen base is split
    std::vector<std::string> split_base = method;
    split_base.emplace_back("parallel.shard_base=data");
    run.expect_losses(alone, 1e-4, split_base);
  }
}

}  // namespace
}  // namespace rankwise::testing
