// SPDX-License-Identifier: Apache-2.0
// RunFolder: the files one training run leaves behind, written by rank 0.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/loss_chart.h"
#include "launch/metrics_record.h"

namespace rankwise {

inline constexpr const char* kSummaryFile = "summary.txt";  // of a finished run
inline constexpr const char* kStartsFile = "starts.json";   // how often a step was started from

// run.json, metrics.jsonl, metrics.csv, log.txt, samples.txt, summary.txt and loss.svg; `adapter/`
// is written beside them by the caller. Lines are appended and handed to the system one by one, so
// that a killed run keeps what it reported. Failures are DiskError naming the file.
class RunFolder {
 public:
  // Creates the folder. When it already holds a run (run.json), `overwrite` removes that run's
  // files, checkpoints and results, nothing else; without it the folder is left alone: ConfigError.
  // So is, in any case, a folder that holds a file of these names and is no run.
  RunFolder(std::string path, bool overwrite);
  // Goes on with the run in the folder, which has not finished: metrics after `step` and results
  // that were cut short are removed.
  RunFolder(std::string path, int64_t step);

  const std::string& path() const { return path_; }
  std::string file(std::string_view name) const { return path_ + "/" + std::string(name); }
  std::string adapter_folder() const { return file("adapter"); }

  // The check of the constructor alone, for a dry run.
  static void require_free(const std::string& path, bool overwrite);
  // Nothing but what a start leaves behind that was cut short before its first checkpoint.
  static bool is_untouched(const std::string& path);

  // Whether `path` is, or lies in, something that `overwrite` removes from `folder`.
  static bool overwrites(const std::string& folder, const std::string& path);

  void write_run_json(const Json& run) const;
  void write_samples(std::string_view text) const;
  // Also redraws loss.svg when the record carries an evaluation.
  void append_metrics(const MetricsRecord& record);
  // Of an evaluation made later, into the last record if it is of `step`.
  void add_eval_loss(int64_t step, double loss);
  // One line of log.txt, with the UTC time before it.
  void log(std::string_view line) const;
  // summary.txt and the final loss.svg: the run is finished.
  void write_summary(std::string_view text) const;

 private:
  void write_chart() const;
  void truncate_metrics(int64_t step);

  std::string path_;
  std::vector<ChartPoint> losses_;
  std::vector<ChartPoint> eval_losses_;
};

}  // namespace rankwise
