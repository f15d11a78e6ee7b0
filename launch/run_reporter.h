// SPDX-License-Identifier: Apache-2.0
// RunReporter: everything a run tells its user: console, log, metrics files, summary.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/metrics_record.h"
#include "launch/progress_line.h"
#include "launch/run_folder.h"

namespace rankwise {

// Lives on rank 0 only.
class RunReporter {
 public:
  // `live`: draw a progress bar when the console is a terminal.
  RunReporter(RunFolder& folder, std::ostream& out, int64_t total_steps, bool has_eval, bool live);

  // To the console and log.txt.
  void say(std::string_view line);
  // Of an evaluation before this start's first step, of the state after `step` steps.
  void evaluation(int64_t step, double loss);
  // After every step: moves the moving average and the live bar; `log` writes the record
  // everywhere.
  void step(MetricsRecord record, bool log);
  // What a checkpoint keeps of it, for the reporter of a later start.
  Json state() const;
  void restore(const Json& state);
  // summary.txt and the closing lines on the console.
  void finish(double seconds, const std::vector<std::pair<std::string, std::string>>& results);

 private:
  RunFolder* folder_;
  std::ostream* out_;
  ProgressLine progress_;
  std::optional<MetricsRecord> first_;
  std::optional<MetricsRecord> last_;
  std::optional<double> first_eval_;
  std::optional<double> last_eval_;
};

}  // namespace rankwise
