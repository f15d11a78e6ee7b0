// SPDX-License-Identifier: Apache-2.0
// The program itself under a real mpirun: equal losses on 1, 2 and 4 processes, the run folder, and
// the one-line errors with their exit codes.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "tests/end_to_end/small_run.h"
#include "tests/support/program.h"

namespace rankwise::testing {
namespace {

std::string run_file(const SmallRun& run, const std::string& name,
                     const std::vector<std::string>& overrides = {}) {
  return run.folder().write(name + ".yaml", print_config(run.config(overrides)));
}

std::vector<double> losses_of(const std::string& folder) {
  return read_metric(folder + "/metrics.jsonl", "loss");
}

int lines_of(const std::string& text) { return static_cast<int>(std::ranges::count(text, '\n')); }

TEST(MpiRun, OneTwoAndFourProcessesGiveTheSameLosses) {
  const SmallRun run;
  const std::string yaml = run_file(run, "run");
  std::vector<double> expected;
  for (int ranks : {1, 2, 4}) {
    const std::string folder = run.folder().file("ranks" + std::to_string(ranks));
    const ProgramResult result = run_rankwise({"train", yaml, "checkpoint.dir=" + folder}, ranks);
    ASSERT_EQ(result.exit_code, 0) << result.errors;
    const std::vector<double> losses = losses_of(folder);
    ASSERT_EQ(losses.size(), 6u);
    if (expected.empty()) expected = losses;
    for (size_t step = 0; step < losses.size(); ++step) {
      EXPECT_NEAR(losses[step], expected[step], 1e-5 * expected[step]) << ranks << " ranks";
    }
  }
}

TEST(MpiRun, LeavesACompleteRunFolder) {
  const SmallRun run;
  const ProgramResult result = run_rankwise({"train", run_file(run, "run")}, 2);
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const std::string folder = run.folder().file("run");
  for (const char* name :
       {"run.json", "metrics.jsonl", "metrics.csv", "log.txt", "samples.txt", "summary.txt",
        "loss.svg", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"}) {
    EXPECT_TRUE(std::filesystem::exists(folder + "/" + name)) << name;
  }
  EXPECT_NE(result.output.find("step "), std::string::npos) << result.output;
}

TEST(MpiRun, DryRunChecksEverythingAndWritesNothing) {
  const SmallRun run;
  const ProgramResult result = run_rankwise({"train", run_file(run, "run"), "--dry-run"});
  EXPECT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_NE(result.output.find("memory per rank"), std::string::npos) << result.output;
  EXPECT_FALSE(std::filesystem::exists(run.folder().file("run")));
}

struct BadCase {
  const char* name;
  std::vector<std::string> overrides;
  int ranks;
  int exit_code;
  const char* mentions;
};

class BadRun : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadRun, EndsWithOneLineAndItsExitCode) {
  const BadCase& bad = GetParam();
  const SmallRun run;
  run.folder().write("empty.jsonl", "");
  run.folder().write("masked.jsonl",
                     "{\"input_ids\": [3, 4, 5], \"labels\": [-100, -100, -100]}\n");
  run.folder().write("range.jsonl", "{\"input_ids\": [3, 67], \"labels\": [3, 67]}\n");
  std::vector<std::string> arguments = {"train", run_file(run, "run")};
  for (std::string value : bad.overrides) {
    const size_t at = value.find("@/");
    if (at != std::string::npos) value.replace(at, 2, run.folder().path() + "/");
    arguments.push_back(value);
  }
  const ProgramResult result = run_rankwise(arguments, bad.ranks);
  EXPECT_EQ(result.exit_code, bad.exit_code) << result.errors;
  EXPECT_NE(result.errors.find(bad.mentions), std::string::npos) << result.errors;
  if (bad.ranks == 1) {
    EXPECT_EQ(lines_of(result.errors), 1) << result.errors;
  }
  EXPECT_FALSE(std::filesystem::exists(run.folder().file("run/adapter")));
}

INSTANTIATE_TEST_SUITE_P(
    Inputs, BadRun,
    ::testing::Values(
        BadCase{"UnknownKey", {"optim.learning_rate=1"}, 1, 2, "optim.learning_rate"},
        BadCase{"IllTypedValue", {"train.steps=many"}, 1, 2, "train.steps"},
        BadCase{"MissingModel", {"model.path=@/nowhere", "model.init=weights"}, 1, 2, "nowhere"},
        BadCase{"MissingWeights", {"model.init=weights"}, 1, 4, "model.safetensors"},
        BadCase{"MissingData", {"data.train.0.path=@/nowhere.jsonl"}, 1, 3, "nowhere.jsonl"},
        BadCase{"EmptyData", {"data.train.0.path=@/empty.jsonl"}, 1, 3, "empty.jsonl"},
        BadCase{"AllLabelsMasked", {"data.train.0.path=@/masked.jsonl"}, 1, 3, "masked.jsonl"},
        BadCase{"TokenOutOfRange", {"data.train.0.path=@/range.jsonl"}, 1, 3, "range.jsonl:1"},
        BadCase{"LongSampleWithoutPolicy", {"data.seq_len=8"}, 1, 3, "data.long_samples"},
        BadCase{"RanksDoNotDivideTheBatch", {}, 3, 2, "train.global_batch"},
        BadCase{"RuleMatchesNothing", {"adapt.0.match=model.nothing"}, 1, 2, "adapt.0.match"}),
    [](const ::testing::TestParamInfo<BadCase>& test) { return test.param.name; });

TEST(MpiRun, RefusesTheFolderOfAFinishedRun) {
  const SmallRun run;
  const std::string yaml = run_file(run, "run");
  ASSERT_EQ(run_rankwise({"train", yaml}).exit_code, 0);
  const ProgramResult again = run_rankwise({"train", yaml});
  EXPECT_EQ(again.exit_code, 2) << again.errors;
  EXPECT_EQ(run_rankwise({"train", yaml, "--overwrite"}).exit_code, 0);
}

}  // namespace
}  // namespace rankwise::testing
