// SPDX-License-Identifier: Apache-2.0
// Progress on the console: one line of fixed columns per logged step, a live bar on a terminal.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>

#include "launch/metrics_record.h"

namespace rankwise {

class ProgressLine {
 public:
  // `live`: redraw a bar below the lines (stdout is a terminal).
  // `has_eval`: keep a column for the evaluation loss, which then shows the latest one.
  ProgressLine(std::ostream& out, int64_t total_steps, bool has_eval, bool live);
  ~ProgressLine() { clear(); }  // an error message must not stand behind the bar
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // Prints the line of a logged step.
  void print(const MetricsRecord& record);
  // Moves the live bar; nothing without one. Called after every step.
  void advance(int64_t steps_done, double seconds_per_step);
  // Removes the bar, so that other output may follow.
  void clear();

  // The line print() writes, without the line end.
  std::string format(const MetricsRecord& record);

 private:
  std::ostream& out_;
  int64_t total_steps_;
  bool has_eval_;
  bool live_;
  bool bar_drawn_ = false;
  std::optional<double> last_eval_;
};

// "00:05:10"; hours may exceed two digits.
std::string format_duration(double seconds);
// "512 B", "18.2 GiB".
std::string format_bytes(int64_t bytes);
// "950", "21.4k", "3.20M".
std::string format_rate(double per_second);

// With '?' in the place of control characters: one line that no terminal obeys.
std::string without_controls(std::string text);

}  // namespace rankwise
