// SPDX-License-Identifier: Apache-2.0
// A loss far above the last ones: a warning, a skipped step or the end, in a resumed run too.
#include "runtime/io/atomic_file.h"
#include "tests/end_to_end/guarded_run.h"

namespace rankwise::testing {
namespace {

// Rows of one token, whose loss hardly changes, and in the last step but two of another.
std::string rows_with_spike(int64_t steps) {
  std::string text;
  for (int64_t row = 0; row < steps * kRowsPerStep; ++row) {
    const int id = row / kRowsPerStep == steps - 3 ? 11 : 40;
    text +=
        fmt::format("{{\"input_ids\": [{0},{0},{0},{0}], \"labels\": [{0},{0},{0},{0}]}}\n", id);
  }
  return text;
}

class Spike : public ::testing::Test {
 protected:
  static constexpr int64_t kMany = 40;
  Spike() {
    write_guarded_files(files_, {});
    files_.folder().write("bad.jsonl", rows_with_spike(kMany));
  }
  TrainConfig config(const std::string& name, const std::string& action,
                     const std::string& sigma = "6") const {
    return guarded_config(files_, name,
                          {fmt::format("train.steps={}", kMany), "optim.lr=1e-6",
                           "guard.spike=" + action, "guard.spike_sigma=" + sigma, "eval.every=0"});
  }
  SmallRun files_;
};

TEST_F(Spike, IsWarnedOf) {
  const TrainConfig warned = config("warned", "warn");
  const TrainConfig silent = config("silent", "stop", "0");
  ASSERT_EQ(train_in_folder(warned, "none"), ExitCode::kDone);
  ASSERT_EQ(train_in_folder(silent, "none"), ExitCode::kDone);
  const std::string log = read_file(warned.checkpoint.dir + "/log.txt");
  RW_EXPECT_HAS(log, "WARNING: step 38: ");
  RW_EXPECT_HAS(log, "standard deviations above the mean of the last 37 steps");
  EXPECT_EQ(read_file(silent.checkpoint.dir + "/log.txt").find("deviations"), std::string::npos);
  EXPECT_TRUE(outcome_of(warned.checkpoint.dir) == outcome_of(silent.checkpoint.dir));
}

TEST_F(Spike, EndsTheRun) {
  EXPECT_EQ(code_of(
                [&] {
                  train_in_folder(config("run", "stop"), "none", {1, 2});
                },
                {"step 38: ", "standard deviations", "weights are those of step 37"}),
            ExitCode::kDiverged);
}

// The statistics are part of the checkpoint: without them step 38 would be no spike.
TEST_F(Spike, IsSkippedInTheResumedRunToo) {
  const TrainConfig whole = config("whole", "skip");
  ASSERT_EQ(train_in_folder(whole, "none"), ExitCode::kDone);
  const std::vector<double> skipped =
      read_metric(whole.checkpoint.dir + "/metrics.jsonl", "skipped_steps");
  ASSERT_EQ(skipped.size(), static_cast<size_t>(kMany));
  EXPECT_EQ(skipped[36], 0.0);
  EXPECT_EQ(skipped[37], 1.0);
  EXPECT_EQ(skipped.back(), 1.0);
  for (const int64_t stop : {35, 38}) {
    const TrainConfig resumed = config(fmt::format("stop{}", stop), "skip");
    ASSERT_EQ(train_in_folder(resumed, "auto", {}, stop), ExitCode::kRequeue);
    ASSERT_EQ(train_in_folder(resumed, "auto"), ExitCode::kDone);
    EXPECT_TRUE(outcome_of(resumed.checkpoint.dir) == outcome_of(whole.checkpoint.dir)) << stop;
  }
}

}  // namespace
}  // namespace rankwise::testing
