// SPDX-License-Identifier: Apache-2.0
// AdamW with 8-bit moments, one scale per 256 elements: 2.03 bytes of state per element, not 8.
#pragma once

#include "kernels/adamw8bit.h"
#include "optim/adamw_optimizer.h"

namespace rankwise {

// Parameters below kSmallest8bit elements (of this rank's part) keep fp32 moments, and so do
// embeddings, an output head tied to one included: the rows of rare tokens share scales with those
// of frequent ones. An untied head has 8-bit moments.
class AdamW8bitOptimizer : public Optimizer {
 public:
  static constexpr int64_t kSmallest8bit = 4096;
  // Moments are allocated in the arena under "optimizer" and start at zero. No importance is
  // measured.
  AdamW8bitOptimizer(std::span<const ParameterGroup> groups, const AdamWOptions& options,
                     Arena& arena, Stream& stream);
  void step(std::span<const ParameterGroup> groups, double lr, float gradient_scale,
            Stream& stream) override;
  int64_t steps_taken() const override { return steps_; }
  void set_steps_taken(int64_t steps) override { steps_ = steps; }
  // "<parameter>.exp_avg" and "<parameter>.exp_avg_sq": codes (U8) with
  // "<parameter>.exp_avg_absmax" and "<parameter>.exp_avg_sq_absmax" (F32), or F32 without.
  std::vector<NamedTensor> state() const override;

 private:
  struct Moments {
    const Parameter* parameter;
    Tensor exp_avg, exp_avg_sq;
    Tensor exp_avg_absmax, exp_avg_sq_absmax;  // undefined: fp32 moments
  };
  AdamWOptions options_;
  std::vector<Moments> moments_;
  int64_t steps_ = 0;
};

}  // namespace rankwise
