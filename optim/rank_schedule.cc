// SPDX-License-Identifier: Apache-2.0
#include "optim/rank_schedule.h"

#include <array>
#include <cmath>

#include "runtime/errors.h"

namespace rankwise {
namespace {

void check_beta(const char* name, double beta) {
  if (beta > 0.0 && beta < 1.0) return;
  throw ConfigError(fmt::format("adalora.{}: {}, must lie between 0 and 1", name, beta));
}

}  // namespace

RankSchedule::RankSchedule(const RankScheduleOptions& options, int64_t matrices,
                           int64_t total_steps)
    : options_(options),
      matrices_(matrices),
      total_steps_(total_steps),
      decided_(total_steps - options.final) {
  const auto& [init_rank, target_rank, warmup, final, interval, beta1, beta2] = options;
  if (init_rank < 1) {
    throw ConfigError(fmt::format("adalora.init_rank: {}, must be at least 1", init_rank));
  }
  if (target_rank < 1 || target_rank > init_rank) {
    throw ConfigError(
        fmt::format("adalora.target_rank: {}, allowed are 1 to adalora.init_rank ({})", target_rank,
                    init_rank));
  }
  if (interval < 1) {
    throw ConfigError(fmt::format("adalora.interval: {} steps, must be at least 1", interval));
  }
  if (warmup < 0) throw ConfigError(fmt::format("adalora.warmup: {} steps", warmup));
  if (final < 1) {
    throw ConfigError(
        fmt::format("adalora.final: {} steps, must be at least 1: the budget is met there", final));
  }
  if (warmup >= decided_) {
    throw ConfigError(fmt::format(
        "adalora: warmup {} + final {} leave none of the run's {} steps for the choice of ranks",
        warmup, final, total_steps));
  }
  check_beta("beta1", beta1);
  check_beta("beta2", beta2);
}

int64_t RankSchedule::budget(int64_t step) const {
  RW_ASSERT(step >= 0, "{}", step);
  const auto initial = static_cast<double>(initial_budget());
  const auto target = static_cast<double>(options_.target_rank * matrices_);
  if (step <= options_.warmup) return initial_budget();
  if (step >= decided_) return options_.target_rank * matrices_;
  const double left = 1.0 - static_cast<double>(step - options_.warmup) /
                                static_cast<double>(decided_ - options_.warmup);
  return static_cast<int64_t>((initial - target) * std::pow(left, 3.0) + target);
}

std::vector<int64_t> RankSchedule::settings() const {
  return {total_steps_,       options_.warmup,      options_.final, options_.interval,
          options_.init_rank, options_.target_rank, matrices_};
}

void RankSchedule::require_same(std::span<const int64_t> saved) const {
  constexpr std::array kNames = {"train.steps",      "adalora.warmup",    "adalora.final",
                                 "adalora.interval", "adalora.init_rank", "adalora.target_rank",
                                 "adapted matrices"};
  const std::vector<int64_t> own = settings();
  RW_ASSERT(saved.size() == own.size(), "{} settings", saved.size());
  for (size_t i = 0; i < own.size(); ++i) {
    if (own[i] == saved[i]) continue;
    throw ConfigError(
        fmt::format("{}: {}, but the run that is resumed has {}: the budget of AdaLoRA would jump",
                    kNames[i], own[i], saved[i]));
  }
}

bool RankSchedule::decides(int64_t step) const {
  if (step == decided_) return true;
  return step > options_.warmup && step < decided_ && step % options_.interval == 0;
}

}  // namespace rankwise
