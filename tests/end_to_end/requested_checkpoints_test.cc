// SPDX-License-Identifier: Apache-2.0
// Checkpoints that a signal, the clock or the batch system asks for, in runs of twelve steps.
#include <cstdlib>
#include <ctime>

#include "launch/checkpoint/checkpoint_folder.h"
#include "runtime/io/atomic_file.h"
#include "tests/end_to_end/resumed_run.h"
#include "tests/support/error_of.h"

namespace rankwise::testing {
namespace {

class RequestedCheckpoint : public ::testing::Test {
 protected:
  // Saves nothing unasked but the first and the last step.
  TrainConfig config(const Overrides& overrides = {}) const {
    Overrides all = {"checkpoint.every=0", "checkpoint.keep=20"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    return run_config(files_, "run", all);
  }
  std::vector<int64_t> steps() const { return committed_steps(config().checkpoint.dir); }

  const SmallRun files_;
};

TEST_F(RequestedCheckpoint, ComesAfterTheStepOfUsr2AndTheRunGoesOn) {
  const TrainConfig undisturbed = run_config(files_, "undisturbed", {"checkpoint.every=0"});
  ASSERT_EQ(train_in_folder(undisturbed, "none"), ExitCode::kDone);
  ASSERT_EQ(train_in_folder(config(), "none", {2, 1}, 3, [] { raise_here(SIGUSR2); }),
            ExitCode::kDone);
  EXPECT_EQ(steps(), (std::vector<int64_t>{12, 3, 0}));
  fs::remove_all(config().checkpoint.dir);
  ASSERT_EQ(train_in_folder(config(), "none", {}, 3, [] { raise_here(SIGUSR2); }), ExitCode::kDone);
  EXPECT_EQ(steps(), (std::vector<int64_t>{12, 3, 0}));
  EXPECT_TRUE(outcome_of(config().checkpoint.dir) == outcome_of(undisturbed.checkpoint.dir));
}

TEST_F(RequestedCheckpoint, ComesByTheClock) {
  ASSERT_EQ(train_in_folder(config({"checkpoint.every_minutes=1e-9"}), "none", {2, 1}),
            ExitCode::kDone);
  EXPECT_EQ(steps().size(), 13u);
  fs::remove_all(config().checkpoint.dir);
  ASSERT_EQ(train_in_folder(config({"checkpoint.every_minutes=1000"}), "none"), ExitCode::kDone);
  EXPECT_EQ(steps(), (std::vector<int64_t>{12, 0}));
}

TEST_F(RequestedCheckpoint, ComesTwoMinutesBeforeTheJobEndsAndStopsTheRun) {
  const auto train_until = [&](int64_t seconds) {
    setenv("SLURM_JOB_END_TIME", fmt::format("{}", std::time(nullptr) + seconds).c_str(), 1);
    const ExitCode code = train_in_folder(config(), "auto");
    unsetenv("SLURM_JOB_END_TIME");
    return code;
  };
  ASSERT_EQ(train_until(119), ExitCode::kRequeue);
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 0}));
  RW_EXPECT_HAS(read_file(config().checkpoint.dir + "/log.txt"), "stopped after step 1 of 12");
  ASSERT_EQ(train_until(3600), ExitCode::kDone);
  EXPECT_EQ(steps(), (std::vector<int64_t>{12, 1, 0}));
}

}  // namespace
}  // namespace rankwise::testing
