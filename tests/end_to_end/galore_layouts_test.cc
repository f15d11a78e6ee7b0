// SPDX-License-Identifier: Apache-2.0
// GaLore under mpirun with 2 and 4 ranks: data 2, tensor 2 and data 2 x tensor 2 train as one rank
// does, over several refreshes.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/end_to_end/golden_run.h"
#include "tests/end_to_end/small_run.h"
#include "tests/support/test_world.h"

namespace rankwise::testing {
namespace {

// Relative differences of losses, where weights are whole and where they are split: `rule` on one
// rank, trained by the first for all, and on this world's layouts of 2 x 2 or less.
void expect_layouts(const std::string& rule, std::vector<std::string> overrides, double relative,
                    double split_relative) {
  const StoriesFiles files;
  overrides.insert(overrides.end(), {"train.global_batch=4", "train.micro_batch=1"});
  TrainConfig config = files.config(rule, overrides);
  std::vector<double> expected(static_cast<size_t>(*config.train.steps), 0.0);
  if (world().rank() == 0) expected = train(config, *make_single_communicator()).losses;
  expected = all_reduce_numbers(world(), expected, ReduceOp::kSum, "losses of one rank");
  EXPECT_LT(expected.back(), 0.9 * expected.front());
  for (int tensor = world().size() / 2; tensor <= 2; ++tensor) {
    const std::string name = fmt::format("data {} x tensor {}", world().size() / tensor, tensor);
    SCOPED_TRACE(name);
    config.parallel.tensor = tensor;
    const std::vector<double> losses = train(config, world()).losses;
    ASSERT_EQ(losses.size(), expected.size());
    double worst = 0.0;
    for (size_t step = 0; step < losses.size(); ++step) {
      worst = std::max(worst, std::abs(losses[step] / expected[step] - 1.0));
    }
    EXPECT_LE(worst, tensor == 1 ? relative : split_relative);
    if (world().rank() == 0) fmt::print("   {}: losses differ by {:.2g} at most\n", name, worst);
  }
}

TEST(GaLoreLayouts, EveryLayoutTrainsAsOneRank) {
  RW_REQUIRE_SHARED();
  expect_layouts("{method: galore, galore: {rank: 16, refresh: 18}}", {"train.steps=60"}, 1e-4,
                 1e-4);
}

// By SGD, for which only the subspace matters: singular vectors of nearly equal values turn into
// each other by rounding, and AdamW depends on them.
TEST(GaLoreLayouts, ExactBasesTrainAsOnOneRank) {
  RW_REQUIRE_SHARED();
  expect_layouts("{method: galore, galore: {rank: 16, refresh: 6, exact: true, scale: 1}}",
                 {"train.steps=20", "optim.name=sgd", "optim.lr=0.05"}, 1e-4, 1e-4);
}

// Split moments have other blocks of codes, and the smaller ones stay in 32 bits.
TEST(GaLoreLayouts, MomentsOf8BitsTrainAsOnOneRank) {
  RW_REQUIRE_SHARED();
  expect_layouts("{method: galore, galore: {rank: 24, refresh: 6}}",
                 {"train.steps=20", "optim.name=adamw8bit"}, 1e-4, 2e-3);
}

}  // namespace
}  // namespace rankwise::testing
