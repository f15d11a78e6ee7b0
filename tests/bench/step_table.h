// SPDX-License-Identifier: Apache-2.0
// The operations of a LoRA training step one by one, at its shapes, beside the step itself.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "launch/benchmarks.h"

namespace rankwise::testing {

struct StepRow {
  BenchmarkRow rate;
  double calls = 0.0;  // in a step
  double share = 0.0;  // its time in a step over the measured time of a step
  bool part = false;   // of the row above it that is no part
};

// The step, how often each of its operations runs and how long it takes, then their sum to hold
// against the step.
std::vector<StepRow> measure_step_table(const BenchmarkShape& shape,
                                        const BenchmarkCeiling& ceiling);

// The program: options of `rankwise bench`, a table or JSON to `out`. Errors are thrown.
void print_step_table(std::vector<std::string> arguments, std::ostream& out);

}  // namespace rankwise::testing
