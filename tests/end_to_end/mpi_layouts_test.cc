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
  for (std::vector<std::string> method :
       {std::vector<std::string>{"adapt.0.method=dora", "adapt.0.rank=8"},
        {"adapt.0.method=adalora", "adapt.0.adalora.init_rank=8", "adapt.0.adalora.target_rank=4",
         "adapt.0.adalora.warmup=2", "adapt.0.adalora.final=4", "adapt.0.adalora.interval=2"},
        {"adapt.0.rank=8", "adapt.0.rslora=true", "adapt.0.lr_ratio_b=4", "optim.lr=5e-4"}}) {
    method.insert(method.begin(), {"adapt.0.from=null", "train.steps=12"});
    const SmallRunResult alone = run.alone(method);
    ASSERT_EQ(alone.losses.size(), 12u);
    EXPECT_LT(alone.losses.back(), 0.95 * alone.losses.front());
    for (const int tensor : std::set<int>{1, 2, world().size()}) {
      std::vector<std::string> overrides = method;
      overrides.push_back(fmt::format("parallel.tensor={}", tensor));
      run.expect_losses(alone, 1e-4, overrides);
    }
  }
}

}  // namespace
}  // namespace rankwise::testing
