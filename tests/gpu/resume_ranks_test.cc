// SPDX-License-Identifier: Apache-2.0
// Resumed runs under mpirun with 2 ranks, each with its own GPU.
#include "launch/checkpoint/checkpoint_folder.h"
#include "tests/gpu/resumed_gpu_run.h"
#include "tests/support/test_world.h"

namespace rankwise::testing {
namespace {

struct Case {
  const char *method, *layout;
};

class GpuResumeOnRanks : public ::testing::TestWithParam<Case> {};

TEST_P(GpuResumeOnRanks, ContinuesBitForBit) {
  if (world().size() != 2) GTEST_SKIP() << "needs mpirun -np 2";
  if (gpu_count() < 2) GTEST_SKIP() << "needs two GPUs, finds " << gpu_count();
  const GpuRun run(GetParam().method);
  const auto config = [&](const std::string& name) {  // of the files of rank 0
    const std::string own = print_config(run.config(name, {GetParam().layout}));
    return parse_train_config(world().broadcast_text(own, 0, "configuration"), "run", {});
  };
  const TrainConfig whole = config("whole");
  ASSERT_EQ(train_rank(whole, "none", world()), ExitCode::kDone);
  for (const int64_t stop : {4, 7}) {
    SCOPED_TRACE(stop);
    const TrainConfig rest = config(fmt::format("from{}", stop));
    const std::string from = whole.checkpoint.dir + "/" + checkpoint_name(stop);
    ASSERT_EQ(train_rank(rest, from, world()), ExitCode::kDone);
    const Outcome resumed = outcome_of(rest.checkpoint.dir);
    EXPECT_EQ(resumed.losses.size(), static_cast<size_t>(kSteps - stop));
    EXPECT_NE(resumed.weights, "");
    expect_end_of(outcome_of(whole.checkpoint.dir), resumed);
    world().barrier("compared");
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, GpuResumeOnRanks,
                         ::testing::Values(Case{"lora", "parallel.tensor=1"},
                                           Case{"lora", "parallel.tensor=2"},
                                           Case{"galore", "parallel.tensor=1"},
                                           Case{"galore", "parallel.tensor=2"},
                                           Case{"full", "parallel.tensor=2"}));

}  // namespace
}  // namespace rankwise::testing
