// SPDX-License-Identifier: Apache-2.0
// With train.deterministic a resumed run on a GPU has the bits of the one that was not stopped.
#include "launch/checkpoint/checkpoint_folder.h"
#include "tests/gpu/resumed_gpu_run.h"
#include "tests/support/device_memory.h"

namespace rankwise::testing {
namespace {

class GpuResume : public ::testing::TestWithParam<std::string> {};

// Each from a checkpoint that was written while training went on.
TEST_P(GpuResume, ContinuesBitForBitFromEveryCheckpoint) {
  RW_REQUIRE_GPU();
  const GpuRun run(GetParam());
  const TrainConfig whole = run.config("whole");
  ASSERT_EQ(train_in_folder(whole, "none"), ExitCode::kDone);
  const Outcome expected = outcome_of(whole.checkpoint.dir);
  ASSERT_EQ(expected.losses.size(), static_cast<size_t>(kSteps));
  ASSERT_NE(expected.weights, "");
  for (const int64_t stop : {1, 3, 4, 7, 10, 11}) {
    SCOPED_TRACE(stop);
    const TrainConfig rest = run.config(fmt::format("from{}", stop));
    ASSERT_EQ(train_in_folder(rest, whole.checkpoint.dir + "/" + checkpoint_name(stop)),
              ExitCode::kDone);
    const Outcome resumed = outcome_of(rest.checkpoint.dir);
    ASSERT_EQ(resumed.losses.size(), static_cast<size_t>(kSteps - stop));
    expect_end_of(expected, resumed);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, GpuResume,
                         ::testing::Values("lora", "lora_dropout", "adalora", "dora", "galore",
                                           "full", "adamw8bit"),
                         [](const auto& method) { return method.param; });

class GpuRestart : public ::testing::TestWithParam<std::string> {};

// Another process chooses its kernels anew.
TEST_P(GpuRestart, ContinuesBitForBitInAnotherProcess) {
  RW_REQUIRE_GPU();
  const GpuRun run(GetParam());
  const TrainConfig whole = run.config("whole"), stopped = run.config("stopped");
  ASSERT_EQ(train_in_folder(whole, "none"), ExitCode::kDone);
  ASSERT_EQ(train_in_folder(stopped, "auto", {}, 5), ExitCode::kRequeue);
  const std::string yaml = run.folder().write("run.yaml", print_config(stopped));
  const ProgramResult rest = run_rankwise({"train", yaml, "--resume", "auto"});
  ASSERT_EQ(rest.exit_code, 0) << rest.errors;
  const Outcome expected = outcome_of(whole.checkpoint.dir);
  const Outcome resumed = outcome_of(stopped.checkpoint.dir);
  ASSERT_EQ(resumed.losses.size(), static_cast<size_t>(kSteps));
  expect_end_of(expected, resumed);
}

INSTANTIATE_TEST_SUITE_P(Methods, GpuRestart, ::testing::Values("lora", "galore"),
                         [](const auto& method) { return method.param; });

}  // namespace
}  // namespace rankwise::testing
