// SPDX-License-Identifier: Apache-2.0
#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "runtime/errors.h"

namespace rankwise {

Schedule::Schedule(ScheduleKind kind, double lr, double min_lr, int64_t warmup_steps,
                   int64_t total_steps)
    : kind_(kind), lr_(lr), min_lr_(min_lr), warmup_(warmup_steps), total_(total_steps) {
  if (warmup_ < 0 || warmup_ > total_) {
    throw ConfigError(
        fmt::format("optim.warmup: {} steps, allowed are 0 to train.steps ({})", warmup_, total_));
  }
  if (!(lr_ >= 0.0) || !(min_lr_ >= 0.0) || min_lr_ > lr_) {
    throw ConfigError(
        fmt::format("optim.min_lr: {}, allowed are 0 to optim.lr ({})", min_lr_, lr_));
  }
}

double Schedule::at(int64_t step) const {
  RW_ASSERT(step >= 0, "{}", step);
  if (step < warmup_) return lr_ * static_cast<double>(step + 1) / static_cast<double>(warmup_);
  if (kind_ == ScheduleKind::kConstant) return lr_;
  const int64_t decay_steps = std::max<int64_t>(total_ - warmup_, 1);
  const double progress =
      std::min(1.0, static_cast<double>(step - warmup_) / static_cast<double>(decay_steps));
  const double remaining = kind_ == ScheduleKind::kLinear
                               ? 1.0 - progress
                               : 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  return min_lr_ + (lr_ - min_lr_) * remaining;
}

}  // namespace rankwise
