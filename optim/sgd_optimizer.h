// SPDX-License-Identifier: Apache-2.0
// SGD with momentum, in torch's formula but with decoupled weight decay.
#pragma once

#include "optim/optimizer.h"

namespace rankwise {

struct SgdOptions {
  double momentum = 0.0;  // 0: no state
};

// p *= 1 - lr wd; b = momentum b + g, without dampening; p -= lr b. As in AdamW the decay does not
// enter the momentum, unlike torch.optim.SGD's.
class SgdOptimizer : public Optimizer {
 public:
  // Momentum is allocated in the arena under "optimizer" and starts at zero.
  SgdOptimizer(std::span<const ParameterGroup> groups, const SgdOptions& options, Arena& arena,
               Stream& stream);
  void step(std::span<const ParameterGroup> groups, double lr, float gradient_scale,
            Stream& stream) override;
  int64_t steps_taken() const override { return steps_; }
  void set_steps_taken(int64_t steps) override { steps_ = steps; }
  // "<parameter>.momentum_buffer".
  std::vector<NamedTensor> state() const override;

 private:
  struct Momentum {
    const Parameter* parameter;
    Tensor buffer;  // undefined without momentum
  };
  SgdOptions options_;
  std::vector<Momentum> momenta_;
  int64_t steps_ = 0;
};

}  // namespace rankwise
