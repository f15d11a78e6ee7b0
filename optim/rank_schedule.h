// SPDX-License-Identifier: Apache-2.0
// RankSchedule: how many singular triplets AdaLoRA keeps at each step, and when it chooses them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rankwise {

struct RankScheduleOptions {
  int64_t init_rank = 12;   // of every adapted matrix
  int64_t target_rank = 8;  // mean over the matrices at the end
  int64_t warmup = 0;       // steps at the start without a choice
  int64_t final = 1;        // steps at the end with one fixed choice
  int64_t interval = 1;     // steps between two choices
  double beta1 = 0.85;      // of the moving averages of the importance
  double beta2 = 0.85;
};

// Steps count from 0. Let d = total_steps - final. The budget falls from init_rank to target_rank
// times `matrices` with the cube of the part of (warmup, d] that is left, and is checked at
// multiples of the interval. At step d the last choice is made; it holds, applied at every step, to
// the end.
class RankSchedule {
 public:
  // ConfigError for ranks, steps and betas that cannot work together.
  RankSchedule(const RankScheduleOptions& options, int64_t matrices, int64_t total_steps);

  int64_t initial_budget() const { return options_.init_rank * matrices_; }
  // Triplets that may be kept.
  int64_t budget(int64_t step) const;
  // Whether the importance is measured; from step d on it is frozen.
  bool measures(int64_t step) const { return step < decided_; }
  // Whether triplets are chosen anew.
  bool decides(int64_t step) const;
  bool ends(int64_t step) const { return step + 1 == total_steps_; }
  // What a checkpoint keeps of it: total_steps, warmup, final, interval, init_rank, target_rank,
  // matrices. ConfigError when `saved` is another schedule's: the budget would jump.
  std::vector<int64_t> settings() const;
  void require_same(std::span<const int64_t> saved) const;
  // Whether those not chosen are set to zero.
  bool masks(int64_t step) const { return decides(step) || step > decided_; }

 private:
  RankScheduleOptions options_;
  int64_t matrices_;
  int64_t total_steps_;
  int64_t decided_;  // step d
};

}  // namespace rankwise
