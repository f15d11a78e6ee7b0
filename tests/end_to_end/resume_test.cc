// SPDX-License-Identifier: Apache-2.0
// Runs that are stopped and resumed: the same bits on the same layout, the same losses up to
// rounding on another one.
#include "launch/checkpoint/checkpoint_folder.h"
#include "runtime/io/atomic_file.h"
#include "tests/end_to_end/resumed_run.h"
#include "tests/support/error_of.h"

namespace rankwise::testing {
namespace {

// Under sanitizers, where a start takes ten times as long, some of the cases stand for all.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kSanitizes = true;
#else
constexpr bool kSanitizes = false;
#endif

const std::map<std::string, Overrides>& methods() {
  static const std::map<std::string, Overrides> table = {
      {"lora", {"adapt.0.dropout=0.1"}},
      {"adalora",
       {"adapt.0={method: adalora, adalora: {init_rank: 6, target_rank: 3, warmup: 2, final: 3, "
        "interval: 2}}"}},
      {"dora", {"adapt.0.method=dora"}},
      {"galore", {"adapt.0={match: \"*\", method: galore, galore: {rank: 8, refresh: 4}}"}},
      {"full", {"adapt.0={match: \"*\", method: full}"}},
      {"adamw8bit", {"adapt.0={match: \"*\", method: full}", "optim.name=adamw8bit"}},
      {"sgd", {"adapt.0.method=lora", "optim={name: sgd, lr: 0.01, momentum: 0.9, warmup: 0}"}},
  };
  return table;
}

// Matrices that are large enough for moments in 8 bits.
void enlarge(const SmallRun& files) {
  std::string text = small_model_config();
  for (const auto& [from, to] :
       {std::pair{"\"hidden_size\": 32", "\"hidden_size\": 64"},
        std::pair{"\"intermediate_size\": 44", "\"intermediate_size\": 160"}}) {
    text.replace(text.find(from), std::string_view(from).size(), to);
  }
  files.folder().write("model/config.json", text);
}

class ResumedMethod : public ::testing::TestWithParam<std::string> {};

// Steps 3 and 6 end an epoch.
TEST_P(ResumedMethod, ContinuesBitForBitFromEveryStop) {
  const SmallRun files;
  if (GetParam() == "adamw8bit") enlarge(files);
  const Overrides& method = methods().at(GetParam());
  const TrainConfig whole = run_config(files, "whole", method);
  ASSERT_EQ(train_in_folder(whole, "none"), ExitCode::kDone);
  const Outcome expected = outcome_of(whole.checkpoint.dir);
  ASSERT_EQ(expected.losses.size(), static_cast<size_t>(kSteps));
  ASSERT_NE(expected.weights, "");
  for (const int64_t stop :
       kSanitizes ? std::vector<int64_t>{4} : std::vector<int64_t>{1, 3, 4, 7, 10, 11}) {
    SCOPED_TRACE(stop);
    const TrainConfig config = run_config(files, fmt::format("stop{}", stop), method);
    ASSERT_EQ(train_in_folder(config, "auto", {}, stop), ExitCode::kRequeue);
    EXPECT_EQ(committed_steps(config.checkpoint.dir).front(), stop);
    ASSERT_EQ(train_in_folder(config, "auto"), ExitCode::kDone);
    const Outcome resumed = outcome_of(config.checkpoint.dir);
    EXPECT_EQ(resumed.losses, expected.losses);
    EXPECT_EQ(resumed.norms, expected.norms);
    EXPECT_TRUE(resumed == expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, ResumedMethod,
                         ::testing::Values("lora", "adalora", "dora", "galore", "full", "adamw8bit",
                                           "sgd"),
                         [](const auto& method) { return method.param; });

class ResumedLayout : public ::testing::TestWithParam<std::string> {};

TEST_P(ResumedLayout, ContinuesOnAnyOtherLayoutUpToRounding) {
  const SmallRun files;
  const Overrides& method = methods().at(GetParam());
  const TrainConfig whole = run_config(files, "whole", method);
  ASSERT_EQ(train_in_folder(whole, "none"), ExitCode::kDone);
  const Outcome expected = outcome_of(whole.checkpoint.dir);
  const std::vector<RunLayout> layouts = {{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}};
  for (size_t from = 0; from < layouts.size(); ++from) {
    const TrainConfig stopped = run_config(files, fmt::format("from{}", from), method);
    ASSERT_EQ(train_in_folder(stopped, "none", layouts[from], 4), ExitCode::kRequeue);
    for (size_t to = 0; to < layouts.size(); ++to) {
      if (to == from || (kSanitizes && to != (from + 2) % layouts.size())) continue;
      SCOPED_TRACE(fmt::format("{} x {} to {} x {}", layouts[from].data, layouts[from].tensor,
                               layouts[to].data, layouts[to].tensor));
      const TrainConfig config = run_config(files, fmt::format("to{}{}", from, to), method);
      fs::copy(stopped.checkpoint.dir, config.checkpoint.dir, fs::copy_options::recursive);
      ASSERT_EQ(train_in_folder(config, "auto", layouts[to]), ExitCode::kDone);
      const Outcome resumed = outcome_of(config.checkpoint.dir);
      EXPECT_EQ(resumed.tokens, expected.tokens);  // the same rows in every step
      ASSERT_EQ(resumed.losses.size(), expected.losses.size());
      for (size_t step = 0; step < expected.losses.size(); ++step) {
        EXPECT_NEAR(resumed.losses[step] / expected.losses[step], 1.0, 1e-4) << step;
      }
      fs::remove_all(config.checkpoint.dir);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, ResumedLayout,
                         ::testing::Values("lora", "adalora", "dora", "galore", "full"),
                         [](const auto& method) { return method.param; });

// Codes of 8 bits belong to blocks of a rank's part: data ranks may change, tensor ranks may not.
TEST(ResumedMoments, Of8BitsKeepTheirTensorRanks) {
  const SmallRun files;
  enlarge(files);
  const TrainConfig config = run_config(files, "run", methods().at("adamw8bit"));
  ASSERT_EQ(train_in_folder(config, "none", {1, 2}, 4), ExitCode::kRequeue);
  files.folder().write("run/adapter/left", "by an export that was cut short");
  const auto before = contents_of(config.checkpoint.dir);
  for (const std::string resume : {"auto", "/step-00000000"}) {
    const std::string start = resume == "auto" ? resume : config.checkpoint.dir + resume;
    const std::string error = error_of<FormatError>([&] {
      train_in_folder(config, start, {2, 1});
    });
    EXPECT_NE(error.find("exp_avg"), std::string::npos) << error;
    EXPECT_EQ(contents_of(config.checkpoint.dir), before) << resume;
  }
  EXPECT_EQ(train_in_folder(config, "auto", {2, 2}), ExitCode::kDone);
}

// 20 stops in one run of 24 steps: every step but the last is followed by one, some twice.
TEST(ChainedPreemptions, LeaveTheSameRun) {
  const SmallRun files;
  const Overrides method = {"train.steps=24"};
  const TrainConfig whole = run_config(files, "whole", method);
  ASSERT_EQ(train_in_folder(whole, "none"), ExitCode::kDone);
  const TrainConfig config = run_config(files, "chain", method);
  for (int64_t stop = 1; stop <= 20; ++stop) {
    ASSERT_EQ(train_in_folder(config, "auto", {}, stop), ExitCode::kRequeue);
  }
  ASSERT_EQ(train_in_folder(config, "auto"), ExitCode::kDone);
  EXPECT_TRUE(outcome_of(config.checkpoint.dir) == outcome_of(whole.checkpoint.dir));
}

// Under mpirun, with real signals: kills at random times, and USR1 to any one of the ranks.
TEST(Faults, KilledAndPreemptedRanksLeaveTheSameWeights) {
  const ProgramResult result = run_program({"tests/faults.sh", std::getenv("RANKWISE_BINARY"),
                                            kSanitizes ? "3" : "10", kSanitizes ? "1" : "4", "2"},
                                           {{"STEPS", kSanitizes ? "60" : "150"}});
  EXPECT_EQ(result.exit_code, 0) << result.output << result.errors;
}

// One of the calls on files fails, in each run another one: when a run begins, while a rank writes,
// when a checkpoint is committed and the oldest removed, at the end, and when a run is resumed.
TEST(Faults, AFailingCallLeavesWhatWasSavedAndIsNamed) {
  std::vector<std::string> sites = {"new:1:ENOSPC:pwrite:step-00000002*",
                                    "resume:1:EIO:pread:step-00000002/rank-0001.h5"};
  if (!kSanitizes) {
    for (const char* site :
         {"new:0:SHORT:write:run.json*", "new:1:EIO:fsync:step-00000003.tmp-*/*",
          "new:0:EIO:rename:step-00000001", "new:0:EIO:unlinkat:.trash-step-00000000/*.json",
          "resume:0:EIO:read:metrics.jsonl", "resume:0:ENOSPC:mkdir:step*"}) {
      sites.emplace_back(site);
    }
  }
  const ProgramResult result =
      run_program({"tests/io_faults.sh", std::getenv("RANKWISE_BINARY"), RANKWISE_FAULTY_IO, "2",
                   "2", "1000", fmt::format("@({})", fmt::join(sites, "|"))},
                  {{"DEADLINE", "120"}});  // (on a busy machine)
  EXPECT_EQ(result.exit_code, 0) << result.output << result.errors;
  RW_EXPECT_HAS(result.output, fmt::format("{} passed, 0 failed, 0 skipped", sites.size()));
}

// (after a step: before the first one the run ends with other words)
TEST(Faults, TermEndsWithoutASaveWhenTheLastOneIsYoung) {
  const SmallRun files;
  const TrainConfig config =
      run_config(files, "run", {"train.steps=100000", "eval.every=0", "checkpoint.every=0"});
  const std::string yaml = files.folder().write("run.yaml", print_config(config));
  const std::string log = config.checkpoint.dir + "/log.txt";
  const std::string script = fmt::format(
      "{} train {} & until grep -q step {}/metrics.jsonl; do sleep 0.05; done 2>/dev/null; "
      "kill -TERM $!; wait $!",
      std::getenv("RANKWISE_BINARY"), yaml, config.checkpoint.dir);
  EXPECT_EQ(run_program({"bash", "-c", script}).exit_code, 75);
  EXPECT_EQ(committed_steps(config.checkpoint.dir).front(), 0);
  EXPECT_NE(read_file(log).find("asked to terminate"), std::string::npos);
}

TEST(Checkpoints, AreNotMadeAfterAnEvaluationThatIsNotFinite) {
  const SmallRun files;
  const TrainConfig config = run_config(files, "run",
                                        {"adapt.0={match: \"*\", method: full}", "optim.lr=1e38",
                                         "optim.warmup=0", "eval.every=1", "checkpoint.every=1"});
  try {
    train_in_folder(config, "none");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kDiverged);
    EXPECT_NE(std::string(error.what()).find("step 1: evaluation loss"), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(committed_steps(config.checkpoint.dir), std::vector<int64_t>{0});
}

TEST(Checkpoints, BestStaysBesideTheNewest) {
  const SmallRun files;
  const TrainConfig config = run_config(
      files, "run", {"eval.every=2", "checkpoint.every=2", "checkpoint.keep=1", "optim.lr=1"});
  ASSERT_EQ(train_in_folder(config, "none"), ExitCode::kDone);
  const std::vector<double> evals =
      read_metric(config.checkpoint.dir + "/metrics.jsonl", "eval_loss");
  const auto best = 2 * (std::ranges::min_element(evals) - evals.begin() + 1);
  EXPECT_EQ(read_pointer(config.checkpoint.dir, kBestPointer), best);
  EXPECT_EQ(read_pointer(config.checkpoint.dir, kLatestPointer), kSteps);
  EXPECT_EQ(committed_steps(config.checkpoint.dir).size(), best == kSteps ? 1u : 2u);
}

}  // namespace
}  // namespace rankwise::testing
