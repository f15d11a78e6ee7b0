// SPDX-License-Identifier: Apache-2.0
// Jobs of the sbatch templates on a private Slurm of this machine, and how they end.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <thread>

#include "tests/end_to_end/small_run.h"
#include "tests/support/program.h"
#include "tests/support/slurm_cluster.h"

namespace rankwise::testing {

inline std::string slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

inline std::string rankwise_binary() { return std::getenv("RANKWISE_BINARY"); }

class Slurm : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { start_cluster({}); }
  static void TearDownTestSuite() { cluster_.reset(); }
  void SetUp() override {
    if (!cluster_->missing().empty()) GTEST_SKIP() << cluster_->missing();
  }

  static void start_cluster(const std::vector<std::string>& lines) {
    cluster_ = std::make_unique<SlurmCluster>(lines);
  }
  const SlurmCluster& cluster() const { return *cluster_; }
  std::string file(const std::string& name) const { return run_.folder().file(name); }
  std::string log() const { return slurp(file("job.log")); }

  // RUN.yaml of a small run, its results in folder `run`.
  std::string run_file(const std::vector<std::string>& overrides = {}) const {
    return run_.folder().write("run.yaml", print_config(run_.config(overrides)));
  }

  // A template of launch/slurm as a user would edit it: `values` for its variables.
  std::string edited(const std::string& name, std::map<std::string, std::string> values) const {
    std::ifstream in("launch/slurm/" + name);
    std::string text;
    for (std::string line; std::getline(in, line);) {
      const auto value = values.find(line.substr(0, line.find('=')));
      if (value != values.end()) {
        line = value->first + "=" + value->second;
        values.erase(value);
      }
      text += line + "\n";
    }
    EXPECT_TRUE(values.empty()) << name << " has no variable " << values.begin()->first;
    return run_.folder().write(name, text);
  }
  std::string write(const std::string& name, const std::string& text) const {
    return run_.folder().write(name, text);
  }
  std::string bare() const { return edited("bare.sbatch", {{"rankwise", rankwise_binary()}}); }

  // sbatch for two tasks on this machine.
  ProgramResult submit(std::vector<std::string> arguments,
                       const std::map<std::string, std::string>& environment = {}) const {
    const std::vector<std::string> options = {
        "sbatch",           "--parsable",          "--output=" + file("job.log"),
        "--nodes=1",        "--ntasks-per-node=2", "--cpus-per-task=1",
        "--gpus-per-node=0"};
    arguments.insert(arguments.begin(), options.begin(), options.end());
    return cluster().run(arguments, environment);
  }

  // NAME=VALUE of `scontrol show job`.
  std::string field(const std::string& job, const std::string& name) const {
    const std::string text = cluster().run({"scontrol", "show", "job", job}).output;
    const size_t begin = text.find(name + "=");
    if (begin == std::string::npos) return "";
    const size_t value = begin + name.size() + 1;
    return text.substr(value, text.find_first_of(" \n", value) - value);
  }

  // Waits for the end of the submitted job; its exit code and signal, such as "75:0".
  std::string ending(const ProgramResult& submitted) const {
    if (submitted.exit_code != 0) return "not submitted: " + submitted.errors;
    const std::string job = job_number(submitted);
    const bool ended = await([&] {
      const std::string state = field(job, "JobState");
      return state == "COMPLETED" || state == "FAILED";
    });
    return ended ? field(job, "ExitCode") : "still " + field(job, "JobState");
  }

  static std::string job_number(const ProgramResult& submitted) {
    return submitted.output.substr(0, submitted.output.find_first_of(";\n"));
  }

  static bool await(const std::function<bool()>& condition) {
    for (int attempt = 0; attempt < 900; ++attempt) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return false;
  }

  // Waits until the job is back in the queue, changes it by `updates` and lets it begin again: it
  // would wait for two minutes otherwise. Not before its node has forgotten the first start.
  bool begins_again(const std::string& job, const std::vector<std::string>& updates = {}) const {
    const auto is_back = [&] {
      return field(job, "Restarts") == "1" && field(job, "JobState") == "PENDING";
    };
    if (!await(is_back)) return false;
    std::this_thread::sleep_for(std::chrono::seconds(3));
    std::vector<std::string> command = {"scontrol", "update", "JobId=" + job, "StartTime=now"};
    command.insert(command.end(), updates.begin(), updates.end());
    return cluster().run(command).exit_code == 0;
  }

  // Environment in which `script` is the command `name`, before the system's.
  std::map<std::string, std::string> stand_in(const std::string& name,
                                              const std::string& script) const {
    const std::string path = run_.folder().write("bin/" + name, "#!/bin/bash\n" + script);
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return {{"PATH", file("bin") + ":" + cluster().variable("PATH")}};
  }

  // The job trains; the same one again finds nothing left to do.
  void expect_trains_once(const std::string& job,
                          const std::map<std::string, std::string>& environment) const {
    const std::string yaml = run_file();
    EXPECT_EQ(ending(submit({job, yaml}, environment)), "0:0") << log();
    EXPECT_TRUE(std::filesystem::exists(file("run/adapter"))) << log();
    EXPECT_EQ(ending(submit({job, yaml}, environment)), "0:0") << log();
    EXPECT_NE(log().find("this run is finished"), std::string::npos) << log();
  }

 private:
  inline static std::unique_ptr<SlurmCluster> cluster_;
  SmallRun run_;
};

}  // namespace rankwise::testing
