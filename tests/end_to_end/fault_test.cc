// SPDX-License-Identifier: Apache-2.0
// Ranks that are killed, stopped or throw while the model is loaded, in a step and while the result
// is saved: the job ends in time, one line names rank, host and operation, nothing is left behind.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "parallel/collective.h"
#include "tests/end_to_end/small_run.h"
#include "tests/support/program.h"

namespace rankwise::testing {
namespace {

constexpr int kHangSeconds = 2;
constexpr double kBeat = 0.8;      // until the others know what a rank does
constexpr double kTeardown = 6.0;  // of mpirun, on a busy machine

struct FaultCase {
  std::string action;  // of tests/support/faulty_program.cc
  int ranks;
  int rank;
  double seconds;
  std::string operation;
  int exit_code;
};

double seconds_now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// Processes whose command line begins with `program`, if given, and contains `text`.
std::vector<pid_t> processes_with(const std::string& text, const std::string& program = "") {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream in(entry.path() / "cmdline");
    const std::string line((std::istreambuf_iterator<char>(in)), {});
    if (line.find(text) == std::string::npos || !line.starts_with(program)) continue;
    found.push_back(static_cast<pid_t>(std::stol(entry.path().filename())));
  }
  return found;
}

void expect_no_process_left(const std::string& text) {
  for (int i = 0; i < 30 && !processes_with(text).empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_TRUE(processes_with(text).empty());
}

// A result stands under its name whole or not at all.
void expect_whole_or_absent(const std::string& adapter) {
  if (!std::filesystem::exists(adapter)) return;
  EXPECT_TRUE(std::filesystem::exists(adapter + "/adapter_config.json"));
  EXPECT_TRUE(std::filesystem::exists(adapter + "/adapter_model.safetensors"));
}

ProgramResult run_with(const FaultCase& fault, const SmallRun& run) {
  const std::string config = print_config(
      run.config({"train.global_batch=12", fmt::format("guard.hang_seconds={}", kHangSeconds)}));
  const std::string what =
      fmt::format("{} {} {} {}", fault.action, fault.rank, fault.seconds, fault.operation);
  return run_rankwise({what, "train", run.folder().write("run.yaml", config)}, fault.ranks);
}

// `message` is what the error line says after "rankwise: error: ".
void expect_end(const FaultCase& fault, const std::string& message, double limit) {
  SCOPED_TRACE(fmt::format("{} of rank {} of {} in '{}'", fault.action, fault.rank, fault.ranks,
                           fault.operation));
  const SmallRun run;
  const ProgramResult result = run_with(fault, run);
  const double end = seconds_now();
  SCOPED_TRACE(result.errors);
  EXPECT_EQ(result.exit_code, fault.exit_code);
  EXPECT_EQ(count(result.errors, "rankwise: error: "), 1u);
  EXPECT_EQ(count(result.errors, "rankwise: error: " + message), 1u) << message;
  const std::string last = fault.operation.substr(fault.operation.find('>') + 1);
  EXPECT_GE(count(result.errors, "'" + last), 1u) << last;
  const size_t at = result.errors.find("fault at ");
  ASSERT_NE(at, std::string::npos);
  const double took = end - std::stod(result.errors.substr(at + 9));
  EXPECT_LT(took, limit);
  std::printf("%5s rank %d of %d in %-16s ended after %.1f s\n", fault.action.c_str(), fault.rank,
              fault.ranks, fault.operation.c_str(), took);
  expect_no_process_left(run.folder().path());
  expect_whole_or_absent(run.folder().file("run/adapter"));
}

// {action} x {load, step, save} x {first, last rank}, several jobs at a time.
void expect_ends(const std::string& action, double seconds, int exit_code,
                 const std::string& message, double limit) {
  for (const bool first : {true, false}) {
    std::vector<std::future<void>> together;
    for (const char* operation :
         {"build the model>load ", "step 3", first ? "save" : "end of training"}) {
      const int ranks = std::string_view(operation) == "step 3" ? 3 : 2;
      const FaultCase fault = {action, ranks, first ? 0 : ranks - 1, seconds, operation, exit_code};
      const std::string line = fmt::format("rank {} on {} {}", fault.rank, host_name(), message);
      together.push_back(std::async(std::launch::async, expect_end, fault, line, limit));
    }
  }
}

class Fault : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const auto folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
    setenv("RANKWISE_BINARY", (folder / "faulty_program").c_str(), 1);
  }
};

// mpirun itself ends a job one of whose ranks was killed, and returns 128 + the signal.
TEST_F(Fault, KilledRankIsNamedAndEndsTheJob) {
  expect_ends("kill", kBeat, 137, "ended during '", kTeardown);
}

TEST_F(Fault, RankThatCrashesIsNamedAndEndsTheJob) {
  expect_end({"abort", 2, 1, kBeat, "step 3", 134},
             fmt::format("rank 1 on {} ended during 'step 3", host_name()), kTeardown);
}

TEST_F(Fault, StoppedRankIsNamedAndEndsTheJobAfterTheDeadline) {
  expect_ends("stop", kBeat, 73, "has been silent for ", kHangSeconds + kTeardown);
}

TEST_F(Fault, RankThatThrowsIsNamedAndEndsTheJob) {
  expect_ends("throw", 0.0, 74, "during '", kTeardown);
}

TEST_F(Fault, RankThatSleepsInAStepIsAHang) {
  expect_end({"sleep", 2, 1, 60.0, "step 3", 73},
             fmt::format("rank 1 on {} has been in 'step 3' for ", host_name()),
             kHangSeconds + kTeardown);
}

TEST_F(Fault, WhatAllRanksFindIsReportedOnce) {
  expect_end({"throw", 3, -1, 0.0, "step 3", 74},
             fmt::format("rank 0 on {} during 'step 3': injected fault\n", host_name()), kTeardown);
}

TEST_F(Fault, SlowRankWithPatienceIsNotKilled) {
  const SmallRun run;
  const ProgramResult result =
      run_with({"sleep", 2, 1, 3.0 * kHangSeconds, "read model and data", 0}, run);
  EXPECT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_TRUE(std::filesystem::exists(run.folder().file("run/adapter/adapter_config.json")));
}

TEST_F(Fault, StepsThatAllTakeLongerThanTheDeadlineAreNoHang) {
  const SmallRun run;
  const ProgramResult result =
      run_with({"slow", 2, -1, 1.5 * kHangSeconds, "build the model>step 1>step 3", 0}, run);
  EXPECT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_EQ(count(result.errors, "fault at "), 6u) << "three on each rank";
}

TEST_F(Fault, RankThatDiesInACollectiveIsNamedWithItsStepAndProcess) {
  const SmallRun run;
  const ProgramResult result = run_with({"kill", 2, 1, kBeat, "step 3>gradient bucket", 137}, run);
  EXPECT_EQ(result.exit_code, 137);
  EXPECT_NE(result.errors.find(" of 'step 3, micro-batch 3' (process "), std::string::npos)
      << result.errors;
}

// As a batch system does to make room for a while.
TEST_F(Fault, SuspendedJobGoesOnAfterwards) {
  const SmallRun run;
  auto job = std::async(std::launch::async, run_with, FaultCase{"sleep", 2, -1, 1.0, "step 3", 0},
                        std::cref(run));
  const std::string metrics = run.folder().file("run/metrics.jsonl");
  const auto begun = [&] {
    return std::filesystem::exists(metrics) && read_metric(metrics, "loss").size() == 2;
  };
  while (!begun() && job.wait_for(std::chrono::milliseconds(50)) != std::future_status::ready) {
  }
  const std::vector<pid_t> ranks =
      processes_with(run.folder().path(), std::getenv("RANKWISE_BINARY"));
  EXPECT_EQ(ranks.size(), 2u);
  for (const pid_t rank : ranks) kill(rank, SIGSTOP);
  std::this_thread::sleep_for(std::chrono::seconds(2 * kHangSeconds));
  for (const pid_t rank : ranks) kill(rank, SIGCONT);
  const ProgramResult result = job.get();
  EXPECT_EQ(result.exit_code, 0) << result.errors;
}

}  // namespace
}  // namespace rankwise::testing
