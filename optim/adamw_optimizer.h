// SPDX-License-Identifier: Apache-2.0
// AdamW with fp32 moments, in torch's order of operations.
#pragma once

#include "optim/optimizer.h"

namespace rankwise {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
};

class AdamWOptimizer : public Optimizer {
 public:
  // Moments are allocated in the arena under "optimizer" and start at zero.
  AdamWOptimizer(std::span<const ParameterGroup> groups, const AdamWOptions& options, Arena& arena,
                 Stream& stream);
  void step(std::span<const ParameterGroup> groups, double lr, float gradient_scale,
            Stream& stream) override;
  int64_t steps_taken() const override { return steps_; }
  void set_steps_taken(int64_t steps) override { steps_ = steps; }
  std::vector<NamedTensor> state() const override;

 private:
  struct Moments {
    const Parameter* parameter;
    Tensor exp_avg;
    Tensor exp_avg_sq;
  };
  AdamWOptions options_;
  std::vector<Moments> moments_;
  int64_t steps_ = 0;
};

}  // namespace rankwise
