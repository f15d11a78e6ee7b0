// SPDX-License-Identifier: Apache-2.0
// Running programs from tests: the rankwise binary, alone or under mpirun.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace rankwise::testing {

struct ProgramResult {
  int exit_code = -1;  // 128 + signal when killed
  std::string output;  // stdout
  std::string errors;  // stderr
};

// Runs `arguments` (found by PATH), waits; `environment` is added to this program's own.
ProgramResult run_program(const std::vector<std::string>& arguments,
                          const std::map<std::string, std::string>& environment = {});
// The rankwise binary (RANKWISE_BINARY); under mpirun when ranks > 1.
ProgramResult run_rankwise(std::vector<std::string> arguments, int ranks = 1);

// Field `name` of every line of a metrics.jsonl; lines where it is null are left out.
std::vector<double> read_metric(const std::string& metrics_jsonl, const std::string& name);

}  // namespace rankwise::testing
