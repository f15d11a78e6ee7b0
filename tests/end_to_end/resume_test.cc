// SPDX-License-Identifier: Apache-2.0
// Runs that are stopped and resumed: the same bits on the same layout, the same losses up to
// rounding on another one; what may change in between, and what is refused.
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <sstream>

#include "launch/checkpoint/checkpoint_folder.h"
#include "launch/preemption.h"
#include "launch/run_lease.h"
#include "launch/training_run.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/sha256.h"
#include "tests/end_to_end/small_run.h"
#include "tests/support/error_of.h"
#include "tests/support/program.h"
#include "tests/support/thread_ranks.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSteps = 12;

struct Layout {
  int data = 1;
  int tensor = 1;
};

// Trains in `config`'s folder on ranks that are threads. `stop`: a signal USR1 arrives in this
// step.
ExitCode train_in_folder(TrainConfig config, const std::string& resume, Layout layout = {},
                         int64_t stop = 0) {
  listen_for_requests();
  config.parallel.tensor = layout.tensor;
  std::vector<ExitCode> codes(static_cast<size_t>(layout.data * layout.tensor));
  run_ranks_as_threads(static_cast<int>(codes.size()), [&](Communicator& world) {
    std::ostringstream out;
    VerbContext context{.world = world, .local_size = world.size(), .host = "host", .out = out};
    if (world.rank() == world.size() - 1) {
      world.activity().set_observer([stop](std::string_view work) {
        if (work == fmt::format("step {}", stop)) std::raise(SIGUSR1);
      });
    }
    TrainingRun run(config, context);
    codes[static_cast<size_t>(world.rank())] = run.run({.resume = resume});
  });
  for (const ExitCode code : codes) EXPECT_EQ(code, codes[0]);
  return codes[0];
}

// All that a run computed.
struct Outcome {
  std::vector<double> losses, norms, evals, emas, tokens;
  std::string weights;  // digests of the results
  bool operator==(const Outcome&) const = default;
};

Outcome outcome_of(const std::string& folder) {
  const std::string metrics = folder + "/metrics.jsonl";
  Outcome outcome{read_metric(metrics, "loss"),      read_metric(metrics, "grad_norm"),
                  read_metric(metrics, "eval_loss"), read_metric(metrics, "loss_ema"),
                  read_metric(metrics, "tokens"),    ""};
  for (const char* name : {"/adapter/adapter_model.safetensors", "/model/model.safetensors"}) {
    if (fs::exists(folder + name)) outcome.weights += sha256_file(folder + name) + " ";
  }
  return outcome;
}

// Later ones of the same key hold.
TrainConfig run_config(const SmallRun& run, const std::string& name,
                       const std::vector<std::string>& overrides) {
  std::map<std::string, std::string> by_key;
  const auto add = [&](const std::string& text) { by_key[text.substr(0, text.find('='))] = text; };
  for (const char* text : {"train.micro_batch=1", "data.shuffle=true", "optim.schedule=cosine",
                           "eval.every=4", "checkpoint.every=5"}) {
    add(text);
  }
  add(fmt::format("train.steps={}", kSteps));
  add(fmt::format("data.eval=[{{path: {}, format: tokens}}]", run.folder().file("rows.jsonl")));
  add("checkpoint.dir=" + run.folder().file(name));
  for (const std::string& text : overrides) add(text);
  std::vector<std::string> all;
  for (const auto& [key, text] : by_key) all.push_back(text);
  return run.config(all);
}

using Overrides = std::vector<std::string>;

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
       kSanitizes ? std::vector<int64_t>{4} : std::vector<int64_t>{1, 3, 4, 7, 11}) {
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
  const std::vector<Layout> layouts = {{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}};
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
  const std::string error = error_of<FormatError>([&] { train_in_folder(config, "auto", {2, 1}); });
  EXPECT_NE(error.find("exp_avg"), std::string::npos) << error;
  EXPECT_EQ(train_in_folder(config, "auto", {2, 2}), ExitCode::kDone);
}

// A run that was stopped after step 4.
class StoppedRun : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(start({}, "none", 4), ExitCode::kRequeue); }

  TrainConfig config(const Overrides& overrides = {}) const {
    return run_config(files_, "run", overrides);
  }
  std::string folder() const { return config().checkpoint.dir; }
  ExitCode start(const Overrides& overrides, const std::string& resume, int64_t stop = 0) const {
    return train_in_folder(config(overrides), resume, {}, stop);
  }

  SmallRun files_;
};

TEST_F(StoppedRun, RefusesChangesThatWouldMakeItAnotherRun) {
  const std::pair<const char*, const char*> changes[] = {
      {"optim.lr=0.02", "optim.lr: 0.02, but the run that is resumed has 0.01"},
      {"train.seed=4", "train.seed: 4, but the run that is resumed has 3"},
      {"train.global_batch=12", "train.global_batch: 12"},
      {"train.steps=13", "train.steps: 13, but the run that is resumed has 12"},
      {"data.seq_len=63", "data.seq_len: 63"},
      {"data.packing=true", "data.packing: true"},
      {"data.shuffle=false", "data.shuffle: false"},
      {"adapt.0.alpha=9", "adapt.0.alpha: 9"},
      {"adapt.0.method=dora", "adapt.0.method: \"dora\""},
      {"adapt.0.dropout=0.5", "adapt.0.dropout: 0.5"},
      {"optim.name=adamw8bit", "optim.name: \"adamw8bit\""},
  };
  for (const auto& [change, message] : changes) {
    fs::remove(folder() + "/starts.json");
    const std::string error =
        error_of<ConfigError>([&, change = change] { start({change}, "auto"); });
    EXPECT_NE(error.find(message), std::string::npos) << change << " -> " << error;
  }
  fs::remove(folder() + "/starts.json");
  files_.folder().write("rows.jsonl", random_token_rows({}, 8));
  const std::string error = error_of<ConfigError>([&] { start({}, "auto"); });
  EXPECT_NE(error.find("data.train.0 (SHA-256)"), std::string::npos) << error;
}

TEST_F(StoppedRun, AcceptsWhatLeavesTheRunAsItIs) {
  EXPECT_EQ(start({"train.micro_batch=4", "train.recompute=full", "eval.every=3", "log.every=2",
                   "checkpoint.every=0", "guard.hang_seconds=7"},
                  "auto"),
            ExitCode::kDone);
  EXPECT_EQ(committed_steps(folder()).front(), kSteps);
}

TEST_F(StoppedRun, IsRefusedWithoutResumeAndNamesIt) {
  const std::string error = error_of<ConfigError>([&] { start({}, "none"); });
  EXPECT_NE(error.find("--resume auto"), std::string::npos) << error;
}

TEST_F(StoppedRun, FallsBackToTheNewestGoodCheckpoint) {
  fs::resize_file(folder() + "/step-00000004/rank-0000.h5", 100);
  ASSERT_EQ(start({}, "auto"), ExitCode::kDone);
  const std::string log = read_file(folder() + "/log.txt");
  EXPECT_NE(log.find("WARNING"), std::string::npos);
  EXPECT_NE(log.find("goes on after step 0 of 12"), std::string::npos) << log;
  EXPECT_EQ(outcome_of(folder()).losses.size(), static_cast<size_t>(kSteps));
}

TEST_F(StoppedRun, GoesOnInAnotherFolderFromAPath) {
  const std::string other = files_.folder().file("other");
  ASSERT_EQ(start({"checkpoint.dir=" + other}, folder() + "/step-00000004"), ExitCode::kDone);
  EXPECT_EQ(read_metric(other + "/metrics.jsonl", "step").front(), 5.0);
  ASSERT_EQ(start({}, "auto"), ExitCode::kDone);
  EXPECT_EQ(outcome_of(other).weights, outcome_of(folder()).weights);
}

TEST_F(StoppedRun, StartsThatComeNoFurtherEndWithDoNotRequeue) {
  for (int attempt = 0; attempt < 3; ++attempt) {
    EXPECT_NE(error_of<ConfigError>([&] { start({"train.seed=4"}, "auto"); }), "");
  }
  try {
    start({}, "auto");
    ADD_FAILURE() << "a fourth start";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kDoNotRequeue);
    EXPECT_NE(std::string(error.what()).find("after step 4"), std::string::npos) << error.what();
  }
  EXPECT_EQ(start({}, folder() + "/step-00000004"), ExitCode::kDone);
}

TEST_F(StoppedRun, AFinishedRunIsLeftAlone) {
  ASSERT_EQ(start({}, "auto"), ExitCode::kDone);
  const Outcome finished = outcome_of(folder());
  const auto written = fs::last_write_time(folder() + "/summary.txt");
  EXPECT_EQ(start({}, "auto"), ExitCode::kDone);
  EXPECT_EQ(fs::last_write_time(folder() + "/summary.txt"), written);
  EXPECT_TRUE(outcome_of(folder()) == finished);
}

TEST_F(StoppedRun, IsRefusedWhileAnotherProcessWritesIt) {
  const RunLease lease(folder(), "a job");
  const std::string error = error_of<ConfigError>([&] { start({}, "auto"); });
  EXPECT_NE(error.find("is in use by process"), std::string::npos) << error;
}

TEST_F(StoppedRun, TheLeaseOfADeadProcessIsTaken) {
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  write_file_atomically(
      folder() + "/lease.json",
      fmt::format(R"({{"host":"{}","pid":999999999,"birth":"1","job":"x"}})", host));
  EXPECT_EQ(start({}, "auto"), ExitCode::kDone);
  EXPECT_FALSE(fs::exists(folder() + "/lease.json"));
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
                                           {{"STEPS", kSanitizes ? "60" : "300"}});
  EXPECT_EQ(result.exit_code, 0) << result.output << result.errors;
}

// TERM reaches the ranks through mpirun, which gives them a second.
TEST(Faults, TermEndsWithoutASaveWhenTheLastOneIsYoung) {
  const SmallRun files;
  const TrainConfig config =
      run_config(files, "run", {"train.steps=100000", "eval.every=0", "checkpoint.every=0"});
  const std::string yaml = files.folder().write("run.yaml", print_config(config));
  const std::string log = config.checkpoint.dir + "/log.txt";
  const std::string script = fmt::format(
      "{} train {} & until grep -q 'checkpoint of step 0' {}; do sleep 0.05; done 2>/dev/null; "
      "kill -TERM $!; wait $!",
      std::getenv("RANKWISE_BINARY"), yaml, log);
  EXPECT_EQ(run_program({"bash", "-c", script}).exit_code, 75);
  EXPECT_EQ(committed_steps(config.checkpoint.dir).front(), 0);
  EXPECT_NE(read_file(log).find("asked to terminate"), std::string::npos);
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
