// SPDX-License-Identifier: Apache-2.0
#include "tests/support/slurm_cluster.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace rankwise::testing {
namespace {

constexpr std::chrono::seconds kStartDeadline{90};  // packages may have to be fetched first

std::string slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

}  // namespace

SlurmCluster::SlurmCluster(const std::vector<std::string>& lines) {
  const std::string state = folder_.file("cluster");
  std::string command = "exec bash tests/support/slurm_cluster.sh '" + state + "'";
  for (const std::string& line : lines) command += " '" + line + "'";
  keeper_ = popen(command.c_str(), "we");
  if (keeper_ == nullptr) throw std::runtime_error("cannot start " + command);
  const auto deadline = std::chrono::steady_clock::now() + kStartDeadline;
  const auto written = [&](const char* name) {
    return std::filesystem::exists(state + "/" + name);
  };
  while (!written("ready") && !written("missing")) {
    if (written("failed") || std::chrono::steady_clock::now() > deadline) {
      pclose(keeper_);
      throw std::runtime_error("no Slurm cluster: " + slurp(state + "/failed"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  missing_ = slurp(state + "/missing");
  std::ifstream ready(state + "/ready");
  for (std::string line; std::getline(ready, line);) {
    const size_t equals = line.find('=');
    environment_[line.substr(0, equals)] = line.substr(equals + 1);
  }
}

SlurmCluster::~SlurmCluster() { pclose(keeper_); }

ProgramResult SlurmCluster::run(const std::vector<std::string>& arguments,
                                const std::map<std::string, std::string>& environment) const {
  std::map<std::string, std::string> all = environment;
  all.insert(environment_.begin(), environment_.end());
  return run_program(arguments, all);
}

}  // namespace rankwise::testing
