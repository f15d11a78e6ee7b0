// SPDX-License-Identifier: Apache-2.0
// StepGuard: which steps must not change weights: values that are not finite, and spikes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/config/train_config.h"
#include "runtime/io/json.h"

namespace rankwise {

// The last values of something that is measured in every step, all finite.
class SpikeWindow {
 public:
  static constexpr size_t kMost = 128;  // values that are kept
  static constexpr size_t kLeast = 32;  // of fewer nothing is said

  // By how many standard deviations `value` lies above the mean. A deviation counts as one percent
  // of the mean at least: what hardly varies has no spikes. 0 while there are too few values.
  double sigmas(double value) const;
  // The oldest of kMost goes. What lies more than `most` deviations above the mean enters as that
  // (0: as it is): one spike does not hide the next, and a new level is one after a while.
  void push(double value, double most);

  const std::vector<double>& values() const { return values_; }
  void restore(std::vector<double> values) { values_ = std::move(values); }

 private:
  struct Level {
    double mean = 0.0;
    double deviation = 0.0;
  };
  Level level() const;
  std::vector<double> values_;  // oldest first
};

enum class StepFinding { kNone, kSpike, kNotFinite };

// Depends on losses and gradient norms only, so that all ranks find the same and a resumed run what
// the uninterrupted one finds.
class StepGuard {
 public:
  explicit StepGuard(const GuardSection& section) : section_(section) {}

  // `compares_norm`: the gradient norm is one of those that steps usually have.
  StepFinding judge(double loss, double norm, bool compares_norm) const;
  GuardAction action(StepFinding finding) const {
    return finding == StepFinding::kNotFinite ? section_.nan : section_.spike;
  }
  // "loss 9.1 is 7.3 standard deviations above the mean of the last 128 steps", of the larger.
  std::string describe_spike(double loss, double norm, bool compares_norm) const;
  // Whether one more skipped step in a row is too many.
  bool is_at_limit() const { return in_row_ >= section_.max_skips; }

  // At the end of each step; values that are not finite enter no statistics.
  void record(double loss, double norm, bool compares_norm, bool skipped);
  int64_t skipped() const { return skipped_; }        // in all
  int64_t skipped_in_row() const { return in_row_; }  // up to the last step

  // What a checkpoint keeps.
  Json state() const;
  void restore(const Json& state);

 private:
  GuardSection section_;
  SpikeWindow losses_;
  SpikeWindow norms_;
  int64_t skipped_ = 0;
  int64_t in_row_ = 0;
};

}  // namespace rankwise
