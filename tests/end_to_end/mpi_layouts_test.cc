// SPDX-License-Identifier: Apache-2.0
// Runs under mpirun with 2 and 4 ranks.
#include "tests/end_to_end/golden_layouts.h"

namespace rankwise::testing {
namespace {

TEST(MpiLayouts, EveryLayoutTrainsAsOneRank) {
  RW_REQUIRE_SHARED();
  const GoldenLayouts run;
  const SmallRunResult alone = run.alone({});
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

}  // namespace
}  // namespace rankwise::testing
