// SPDX-License-Identifier: Apache-2.0
// Starts over a run that was stopped: what may change, what is refused and then leaves the folder
// as it is, and when a start ends early.
#include <cstdlib>
#include <ctime>

#include "launch/checkpoint/checkpoint_folder.h"
#include "launch/checkpoint/checkpoint_manifest.h"
#include "launch/run_lease.h"
#include "launch/run_state.h"
#include "runtime/io/atomic_file.h"
#include "tests/end_to_end/resumed_run.h"
#include "tests/support/error_of.h"

namespace rankwise::testing {
namespace {

// A run that was stopped after step 4.
class StoppedRun : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(start({}, "none", 4), ExitCode::kRequeue); }

  TrainConfig config(const Overrides& overrides = {}) const {
    return run_config(files_, "run", overrides);
  }
  std::string folder() const { return config().checkpoint.dir; }
  ExitCode start(const Overrides& overrides, const std::string& resume, int64_t at = 0,
                 const std::function<void()>& action = ask_to_stop) const {
    return train_in_folder(config(overrides), resume, {}, at, action);
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
  const auto before = contents_of(folder());
  for (const auto& [change, message] : changes) {
    const std::string error =
        error_of<ConfigError>([&, change = change] { start({change}, "auto"); });
    EXPECT_NE(error.find(message), std::string::npos) << change << " -> " << error;
  }
  files_.folder().write("rows.jsonl", random_token_rows({}, 8));
  const std::string error = error_of<ConfigError>([&] { start({}, "auto"); });
  EXPECT_NE(error.find("data.train.0 (SHA-256)"), std::string::npos) << error;
  EXPECT_EQ(contents_of(folder()), before);
}

TEST(ResumedRun, MayHaveItsFilesElsewhere) {
  const auto run = [](const std::string& place, int64_t rank) {
    const Json source = {{"path", place}, {"format", "tokens"}};
    const Json rule = {{"from", place}, {"rank", rank}};
    return Json{{"config",
                 {{"data", {{"train", Json::array({source})}}},
                  {"adapt", Json::array({rule})},
                  {"model", {{"path", place}}}}},
                {"total_steps", 3},
                {"data_sha256", {{place, "digest"}}}};
  };
  EXPECT_NO_THROW(require_same_run(run("here", 4), run("there", 4)));
  EXPECT_THROW(require_same_run(run("here", 4), run("here", 5)), ConfigError);
}

TEST(ResumedRun, NamesAnotherGpuAndOtherLibraries) {
  const auto run = [](const std::string& device, const Json& libraries) {
    return Json{{"device", device}, {"libraries", libraries}};
  };
  const Json libraries = {
      {"mpi", "Open MPI v4.1.4"}, {"cudnn", "9.6.0"}, {"nccl", ""}, {"fmt", "9.1.0"}};
  const Json others = {
      {"mpi", "Open MPI v4.1.4"}, {"nccl", "2.21.5"}, {"cublaslt", "13.1.0"}, {"fmt", "10.0.0"}};
  EXPECT_EQ(other_surroundings(run("cuda:0 (A)", libraries), run("cuda:3 (A)", libraries)), "");
  RW_EXPECT_HAS(other_surroundings(run("cuda:0 (A)", libraries), run("cuda:0 (B)", others)),
                ": device B (was A), cudnn none (was 9.6.0), nccl 2.21.5 (was none)");
  EXPECT_EQ(other_surroundings(run("cpu", libraries), run("cpu", others)), "");
  const Json unknown = {{"mpi", "Open MPI v4.1.4"}, {"cudnn", "for attention"}};
  EXPECT_EQ(other_surroundings(run("cuda:0 (A)", unknown), run("cuda:0 (A)", others)), "");
  RW_EXPECT_HAS(other_surroundings(run("cpu", libraries), run("cpu", Json::object())),
                ": mpi none (was Open MPI v4.1.4)");
}

TEST_F(StoppedRun, WarnsOfOtherLibraries) {
  const std::string file = folder() + "/step-00000004/manifest.json";
  CheckpointManifest manifest = parse_manifest(read_file(file), file);
  manifest.scalars["run"]["libraries"]["openblas"] = "0.1";
  write_file_atomically(file, manifest_text(manifest));
  ASSERT_EQ(start({}, "auto"), ExitCode::kDone);
  const std::string log = read_file(folder() + "/log.txt");
  RW_EXPECT_HAS(log, "WARNING: not what the checkpoint was made with");
  RW_EXPECT_HAS(log, "(was 0.1)");
}

TEST_F(StoppedRun, AcceptsWhatLeavesTheRunAsItIs) {
  EXPECT_EQ(start({"train.micro_batch=4", "train.recompute=full", "eval.every=3", "log.every=2",
                   "checkpoint.every=0", "guard.hang_seconds=7"},
                  "auto"),
            ExitCode::kDone);
  EXPECT_EQ(committed_steps(folder()).front(), kSteps);
  EXPECT_EQ(read_json_file(folder() + "/run.json")["config"]["train"]["micro_batch"], 4);
  EXPECT_EQ(read_file(folder() + "/log.txt").find("WARNING"), std::string::npos);
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
  const auto before = contents_of(folder());
  EXPECT_THROW(start({"checkpoint.dir=" + other}, folder() + "/step-00000004", 5, fail),
               std::logic_error);
  EXPECT_EQ(committed_steps(other), std::vector<int64_t>{4});
  EXPECT_EQ(contents_of(folder()), before);
  ASSERT_EQ(start({"checkpoint.dir=" + other}, "auto"), ExitCode::kDone);
  EXPECT_EQ(read_metric(other + "/metrics.jsonl", "step").front(), 5.0);
  ASSERT_EQ(start({}, "auto"), ExitCode::kDone);
  EXPECT_EQ(outcome_of(other).weights, outcome_of(folder()).weights);
}

TEST_F(StoppedRun, StartsThatComeNoFurtherEndWithDoNotRequeue) {
  for (int attempt = 0; attempt < 3; ++attempt) {
    EXPECT_THROW(start({}, "auto", 5, fail), std::logic_error);
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
  const auto before = contents_of(folder());
  const std::string error = error_of<ConfigError>([&] { start({}, folder() + "/step-00000010"); });
  EXPECT_NE(error.find("holds a finished run"), std::string::npos) << error;
  EXPECT_EQ(contents_of(folder()), before);
}

TEST_F(StoppedRun, IsSavedOnTermWhenThisStartHasCommittedNothing) {
  ASSERT_EQ(start({"checkpoint.every=0"}, "auto", 6, [] { raise_here(SIGTERM); }),
            ExitCode::kRequeue);
  EXPECT_EQ(committed_steps(folder()).front(), 6);
}

TEST_F(StoppedRun, MakesNoStepWhenItIsAskedToStopBefore) {
  ask_to_stop();
  ASSERT_EQ(start({}, "auto"), ExitCode::kRequeue);
  EXPECT_EQ(committed_steps(folder()).front(), 4);
  EXPECT_EQ(outcome_of(folder()).losses.size(), 4u);
}

TEST_F(StoppedRun, StartsThatTheTimeLimitEndsBeforeTheirFirstStepEndWithDoNotRequeue) {
  const auto start_until = [&](const std::string& seconds) {
    const int64_t end = std::time(nullptr) + std::stoll("0" + seconds);
    if (!seconds.empty()) setenv("SLURM_JOB_END_TIME", std::to_string(end).c_str(), 1);
    ask_to_stop();
    const ExitCode code = start({}, "auto");
    unsetenv("SLURM_JOB_END_TIME");
    return code;
  };
  EXPECT_EQ(start_until("3600"), ExitCode::kRequeue);  // another job takes the machine
  for (const char* seconds : {"170", "", "170"}) {
    EXPECT_EQ(start_until(seconds), ExitCode::kRequeue);
  }
  try {
    start({}, "auto");
    ADD_FAILURE() << "a fourth start";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kDoNotRequeue) << error.what();
  }
}

TEST_F(StoppedRun, IsRefusedWhileAnotherProcessWritesIt) {
  const RunLease lease(folder(), "a job");
  const std::string error = error_of<ConfigError>([&] { start({}, "auto"); });
  EXPECT_NE(error.find("is in use by process"), std::string::npos) << error;
}

TEST_F(StoppedRun, EndsBeforeItsNextSaveWhenItHasLostTheLease) {
  const std::string lease = R"({"host":"elsewhere","pid":7,"birth":"1","job":"x"})";
  const std::string error = error_of<ConfigError>([&] {
    start({}, "auto", 5, [&] { write_file_atomically(folder() + "/lease.json", lease); });
  });
  EXPECT_NE(error.find("process 7 on elsewhere (job x) has taken it over"), std::string::npos)
      << error;
  EXPECT_EQ(committed_steps(folder()).front(), 4);
  EXPECT_EQ(read_file(folder() + "/lease.json"), lease);
}

// Nobody has it then, as far as is known: an error of the disk.
TEST_F(StoppedRun, EndsBeforeItsNextSaveWhenItCannotReadTheLease) {
  const std::string lease = folder() + "/lease.json";
  const std::string error = error_of<DiskError>([&] {
    start({}, "auto", 5, [&] {
      fs::remove(lease);
      fs::create_directory(lease);
    });
  });
  EXPECT_EQ(error, lease + ": not a regular file");
  EXPECT_EQ(committed_steps(folder()).front(), 4);
}

TEST_F(StoppedRun, TheLeaseOfADeadProcessIsTaken) {
  Json lease;
  {
    const RunLease own(folder(), "x");
    lease = read_json_file(folder() + "/lease.json");
  }
  lease["pid"] = 999999999;
  write_file_atomically(folder() + "/lease.json", lease.dump());
  EXPECT_EQ(start({}, "auto"), ExitCode::kDone);
  EXPECT_FALSE(fs::exists(folder() + "/lease.json"));
}

}  // namespace
}  // namespace rankwise::testing
