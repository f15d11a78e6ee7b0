// SPDX-License-Identifier: Apache-2.0
// Learning-rate schedules: constant, linear, cosine, each with a linear warm-up.
#pragma once

#include <cstdint>

namespace rankwise {

enum class ScheduleKind { kConstant, kLinear, kCosine };

class Schedule {
 public:
  // ConfigError unless 0 <= warmup_steps <= total_steps and 0 <= min_lr <= lr.
  Schedule(ScheduleKind kind, double lr, double min_lr, int64_t warmup_steps, int64_t total_steps);
  // Rate of step 0, 1, ...: lr * (step + 1) / warmup_steps during the warm-up (so no step has rate
  // 0), then the decay from lr to min_lr, reached at total_steps.
  double at(int64_t step) const;

 private:
  ScheduleKind kind_;
  double lr_, min_lr_;
  int64_t warmup_, total_;
};

}  // namespace rankwise
