// SPDX-License-Identifier: Apache-2.0
// SlurmCluster: a private one-node Slurm of this machine, as long as the object lives.
#pragma once

#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "tests/support/program.h"
#include "tests/support/scratch_folder.h"

namespace rankwise::testing {

class SlurmCluster {
 public:
  // `lines` end slurm.conf, such as another partition. std::runtime_error when the daemons are
  // there but do not start.
  explicit SlurmCluster(const std::vector<std::string>& lines = {});
  // Ends jobs and daemons.
  ~SlurmCluster();
  SlurmCluster(const SlurmCluster&) = delete;
  SlurmCluster& operator=(const SlurmCluster&) = delete;

  // Why this machine cannot have a cluster; empty: it runs.
  const std::string& missing() const { return missing_; }
  const std::string& variable(const std::string& name) const { return environment_.at(name); }
  // A command of Slurm, or any program, in the cluster's environment with `environment` added.
  ProgramResult run(const std::vector<std::string>& arguments,
                    const std::map<std::string, std::string>& environment = {}) const;

 private:
  ScratchFolder folder_;
  std::FILE* keeper_ = nullptr;  // tests/support/slurm_cluster.sh; ends with its standard input
  std::string missing_;
  std::map<std::string, std::string> environment_;
};

}  // namespace rankwise::testing
