// SPDX-License-Identifier: Apache-2.0
#include "launch/run_folder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;
using testing::ScratchFolder;

std::vector<std::string> lines_of(const std::string& path) {
  std::istringstream in(read_file(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST(RunFolder, AnEvaluationMadeLaterIsInTheRecordOfItsStep) {
  const ScratchFolder scratch;
  RunFolder later(scratch.file("later"), false), twin(scratch.file("twin"), false);
  for (RunFolder* folder : {&later, &twin}) folder->append_metrics({.step = 1, .loss = 2.5});
  later.append_metrics({.step = 2, .loss = NAN, .tokens = 20});
  twin.append_metrics({.step = 2, .loss = NAN, .eval_loss = 0.1, .tokens = 20});
  later.add_eval_loss(3, 7.0);  // not logged
  later.add_eval_loss(2, 0.1);
  for (const char* name : {"metrics.jsonl", "metrics.csv"}) {
    EXPECT_EQ(read_file(later.file(name)), read_file(twin.file(name)));
  }
  RunFolder empty(scratch.file("empty"), false);
  empty.add_eval_loss(2, 0.1);
  EXPECT_FALSE(fs::exists(empty.file("metrics.jsonl")));
}

TEST(RunFolder, MetricsAreOneObjectAndOneRowPerStep) {
  const ScratchFolder scratch;
  RunFolder folder(scratch.file("runs/a"), false);
  folder.append_metrics({.step = 1, .loss = 2.5, .tokens = 10});
  folder.append_metrics({.step = 2, .loss = NAN, .eval_loss = 1.5, .tokens = 20});

  const auto objects = lines_of(folder.file("metrics.jsonl"));
  ASSERT_EQ(objects.size(), 2u);
  const Json first = parse_json(objects[0], "metrics");
  const std::vector<std::string> names = {"step",
                                          "epoch",
                                          "loss",
                                          "loss_ema",
                                          "eval_loss",
                                          "token_accuracy",
                                          "grad_norm",
                                          "lr",
                                          "tokens",
                                          "tokens_per_s",
                                          "tokens_per_s_per_rank",
                                          "mfu",
                                          "step_ms",
                                          "slowest_rank",
                                          "peak_bytes",
                                          "data_wait_ms",
                                          "comm_ms",
                                          "adalora_budget",
                                          "adalora_active",
                                          "orth_loss",
                                          "galore_refresh_ms",
                                          "wire_bytes",
                                          "skipped_steps"};
  std::vector<std::string> found;
  for (const auto& [name, value] : first.items()) found.push_back(name);
  EXPECT_EQ(found, names);
  EXPECT_EQ(first["loss"], 2.5);
  EXPECT_TRUE(first["eval_loss"].is_null());
  const Json second = parse_json(objects[1], "metrics");
  EXPECT_TRUE(second["loss"].is_null());  // not finite
  EXPECT_EQ(second["eval_loss"], 1.5);

  const auto rows = lines_of(folder.file("metrics.csv"));
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_TRUE(rows[0].starts_with("step,epoch,loss,loss_ema,eval_loss,"));
  EXPECT_TRUE(rows[1].starts_with("1,0.0,2.5,0.0,,,")) << rows[1];
  EXPECT_TRUE(rows[2].starts_with("2,0.0,,0.0,1.5,,")) << rows[2];
  for (const std::string& row : rows) EXPECT_EQ(std::count(row.begin(), row.end(), ','), 22);
}

TEST(RunFolder, EvaluationAndSummaryDrawTheChart) {
  const ScratchFolder scratch;
  RunFolder folder(scratch.file("a"), false);
  folder.append_metrics({.step = 1, .loss = 2.5});
  EXPECT_FALSE(fs::exists(folder.file("loss.svg")));
  folder.append_metrics({.step = 2, .loss = 2.0, .eval_loss = 1.5});
  EXPECT_NE(read_file(folder.file("loss.svg")).find("eval 1.5000"), std::string::npos);
  folder.append_metrics({.step = 3, .loss = 1.25});
  folder.write_summary("done\n");
  EXPECT_NE(read_file(folder.file("loss.svg")).find("loss 1.2500"), std::string::npos);
  EXPECT_EQ(read_file(folder.file("summary.txt")), "done\n");
}

TEST(RunFolder, LogLinesCarryTheTime) {
  const ScratchFolder scratch;
  const RunFolder folder(scratch.file("a"), false);
  folder.log("first");
  folder.log("second");
  const auto lines = lines_of(folder.file("log.txt"));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1].size(), std::string("2026-01-01T00:00:00Z second").size());
  EXPECT_TRUE(lines[1].ends_with("Z second"));
}

TEST(RunFolder, FolderOfARunIsRefusedAndLeftAlone) {
  const ScratchFolder scratch;
  const std::string path = scratch.file("a");
  RunFolder(path, false).write_run_json({{"version", "1"}});
  scratch.write("a/metrics.jsonl", "{}\n");
  EXPECT_THROW(RunFolder(path, false), ConfigError);
  EXPECT_THROW(RunFolder::require_free(path, false), ConfigError);
  EXPECT_EQ(read_file(path + "/metrics.jsonl"), "{}\n");
  EXPECT_NO_THROW(RunFolder::require_free(path, true));
  EXPECT_NO_THROW(RunFolder::require_free(scratch.file("elsewhere"), false));
}

TEST(RunFolder, OverwriteRemovesTheRunAndNothingElse) {
  const ScratchFolder scratch;
  for (const char* name :
       {"run.json", "metrics.jsonl", "metrics.csv", "log.txt", "loss.svg", "samples.txt",
        "summary.txt", "adapter/adapter_config.json", "model/config.json", "notes.md"}) {
    scratch.write(std::string("a/") + name, "old");
  }
  const RunFolder folder(scratch.file("a"), true);
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(folder.path())) {
    left.push_back(entry.path().filename().string());
  }
  EXPECT_EQ(left, std::vector<std::string>{"notes.md"});
}

TEST(RunFolder, WhatIsNoRunIsNeverReplaced) {
  const ScratchFolder scratch;
  scratch.write("a/adapter/adapter_config.json", "{}");
  for (const bool overwrite : {false, true}) {
    RW_EXPECT_HAS(testing::error_of<ConfigError>([&] { RunFolder(scratch.file("a"), overwrite); }),
                  "holds adapter but no run.json");
  }
  EXPECT_EQ(read_file(scratch.file("a/adapter/adapter_config.json")), "{}");
}

TEST(RunFolder, MetricsThatCannotBeReadAreNotTakenForNone) {
  const ScratchFolder scratch;
  scratch.write("a/metrics.jsonl/file", "");
  EXPECT_THROW(RunFolder::is_untouched(scratch.file("a")), FormatError);
  EXPECT_THROW(RunFolder(scratch.file("a"), int64_t{3}), FormatError);
}

// (a loss that is not finite is of a step without an update)
TEST(RunFolder, MetricsUpToTheStepThatIsResumedStay) {
  const ScratchFolder scratch;
  {
    RunFolder folder(scratch.file("a"), false);
    for (const int64_t step : {1, 2, 3, 4}) {
      folder.append_metrics({.step = step, .loss = step == 2 ? NAN : 2.5});
    }
  }
  const RunFolder folder(scratch.file("a"), int64_t{3});
  EXPECT_EQ(lines_of(folder.file("metrics.jsonl")).size(), 3u);
  const auto rows = lines_of(folder.file("metrics.csv"));
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_TRUE(rows[3].starts_with("3,")) << rows[3];
}

TEST(RunFolder, KnowsWhatOverwriteRemoves) {
  const ScratchFolder scratch;
  const std::string run = scratch.file("run");
  EXPECT_TRUE(RunFolder::overwrites(run, run + "/model"));
  EXPECT_TRUE(RunFolder::overwrites(run + "/", run + "/x/../adapter/"));
  EXPECT_FALSE(RunFolder::overwrites(run, run + "/data"));
  EXPECT_FALSE(RunFolder::overwrites(run, scratch.file("model")));
  EXPECT_FALSE(RunFolder::overwrites(run, run));
}

TEST(RunFolder, FailuresNameTheFile) {
  const ScratchFolder scratch;
  scratch.write("file", "");
  EXPECT_THROW(RunFolder(scratch.file("file"), false), ConfigError);
  EXPECT_THROW(RunFolder(scratch.file("file/below"), false), DiskError);
  RunFolder folder(scratch.file("a"), false);
  // A folder in the place of the file cannot be opened for writing, not even by root.
  fs::create_directory(folder.file("metrics.jsonl"));
  try {
    folder.append_metrics({});
    FAIL() << "no error";
  } catch (const DiskError& error) {
    EXPECT_NE(std::string(error.what()).find("a/metrics.jsonl"), std::string::npos);
  }
}

TEST(RunFolder, FullDiskIsNoticedAtTheLine) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const ScratchFolder scratch;
  RunFolder folder(scratch.file("a"), false);
  fs::create_symlink("/dev/full", folder.file("log.txt"));
  EXPECT_THROW(folder.log("line"), DiskError);
}

}  // namespace
}  // namespace rankwise
