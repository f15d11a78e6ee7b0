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

  const SmallRun files_{{.rows = 25}};  // two shards evaluate 12 and 13
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

TEST_F(RequestedCheckpoint, ComesAfterTheFirstStepWhenUsr2CameBefore) {
  ASSERT_EQ(train_in_folder(
                config(), "none", {2, 1}, 0, [] { raise_here(SIGUSR2); }, /*report=*/3),
            ExitCode::kDone);
  EXPECT_EQ(steps(), (std::vector<int64_t>{12, 1, 0}));
}

TEST_F(RequestedCheckpoint, ComesByTheClock) {
  ASSERT_EQ(train_in_folder(config({"checkpoint.every_minutes=1e-9"}), "none", {2, 1}),
            ExitCode::kDone);
  EXPECT_EQ(steps().size(), 13u);
  fs::remove_all(config().checkpoint.dir);
  ASSERT_EQ(train_in_folder(config({"checkpoint.every_minutes=1000"}), "none"), ExitCode::kDone);
  EXPECT_EQ(steps(), (std::vector<int64_t>{12, 0}));
}

TEST_F(RequestedCheckpoint, ComesOnceForTwoUsr1) {
  ASSERT_EQ(train_in_folder(config(), "none", {2, 1}, 3,
                            [] {
                              raise_here(SIGUSR1);
                              raise_here(SIGUSR1);
                            }),
            ExitCode::kRequeue);
  EXPECT_EQ(steps(), (std::vector<int64_t>{3, 0}));
  ASSERT_EQ(train_in_folder(config(), "auto", {2, 1}), ExitCode::kDone);
}

// The run is stopped in every evaluation, and in the first one of the next start, too.
TEST_F(RequestedCheckpoint, ComesBeforeAnEvaluationEndsWhichTheNextStartMakes) {
  const Overrides best = {"checkpoint.every=4", "checkpoint.best=true"};
  for (const RunLayout layout : {RunLayout{1, 1}, RunLayout{2, 1}}) {
    const TrainConfig whole = run_config(files_, "whole", best);
    const std::string twin = whole.checkpoint.dir;
    ASSERT_EQ(train_in_folder(whole, "none", layout), ExitCode::kDone);
    const Outcome expected = outcome_of(twin);
    ASSERT_EQ(expected.evals.size(), 3u);

    const std::string folder = config().checkpoint.dir;
    const auto stop_in = [&](int64_t step) {
      SCOPED_TRACE(fmt::format("step {}, {} data rank(s)", step, layout.data));
      EXPECT_EQ(train_in_folder(config(best), "auto", layout, step, ask_to_stop, /*report=*/3),
                ExitCode::kRequeue);
      EXPECT_FALSE(fs::exists(folder + "/summary.txt"));
    };
    for (const int64_t step : {0, 4, 8, 12}) {
      stop_in(step);
      EXPECT_EQ(steps().front(), step);
      if (step > 0) stop_in(0);  // before its first step
      EXPECT_EQ(outcome_of(folder).losses.size(), static_cast<size_t>(step));
      EXPECT_EQ(outcome_of(folder).evals.size(),
                static_cast<size_t>(std::max<int64_t>(0, step / 4 - 1)));
      const auto pointed = read_pointer(folder, kBestPointer);
      EXPECT_EQ(pointed.value_or(0), std::max<int64_t>(0, step - 4));
      if (step == 4) {
        const std::string other = config().checkpoint.dir + "-elsewhere";
        Overrides elsewhere = best;
        elsewhere.push_back("checkpoint.dir=" + other);
        if (layout.data == 1) {  // ends in the evaluation that its first step is owed
          EXPECT_THROW(train_in_folder(config(elsewhere), folder + "/step-00000004", layout, 0,
                                       fail, /*report=*/3),
                       std::logic_error);
          EXPECT_EQ(train_in_folder(config(elsewhere), "auto", layout, 5), ExitCode::kRequeue);
          EXPECT_EQ(committed_steps(other), (std::vector<int64_t>{5, 4}));
          fs::remove_all(other);
        }
        EXPECT_EQ(train_in_folder(config(elsewhere), folder + "/step-00000004", layout, 5),
                  ExitCode::kRequeue);
        EXPECT_EQ(read_pointer(other, kBestPointer), 4);
        fs::remove_all(other);
      }
    }
    ASSERT_EQ(train_in_folder(config(best), "auto", layout), ExitCode::kDone);
    EXPECT_TRUE(outcome_of(folder) == expected);
    EXPECT_EQ(read_pointer(folder, kBestPointer), read_pointer(twin, kBestPointer));
    for (const std::string& place : {folder, twin}) {
      RW_EXPECT_HAS(read_file(place + "/summary.txt"),
                    fmt::format("eval loss, last       {:.4f}\n", expected.evals.back()));
      RW_EXPECT_HAS(read_file(place + "/summary.txt"), "eval loss, before     ");
      fs::remove_all(place);
    }
  }
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
