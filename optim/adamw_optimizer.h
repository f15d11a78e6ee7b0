// SPDX-License-Identifier: Apache-2.0
// AdamW with fp32 moments, in torch's order of operations.
#pragma once

#include <functional>

#include "kernels/adamw.h"
#include "optim/optimizer.h"

namespace rankwise {

// AdaLoRA's importance of parameters, measured in the same pass over memory.
struct ImportanceOptions {
  std::function<bool(const Parameter&)> wanted;  // of which parameters; empty: of none
  double beta1 = 0.85;
  double beta2 = 0.85;
};

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  ImportanceOptions importance{};
};

class AdamWOptimizer : public Optimizer {
 public:
  // Moments and importance are allocated in the arena under "optimizer" and start at zero.
  AdamWOptimizer(std::span<const ParameterGroup> groups, const AdamWOptions& options, Arena& arena,
                 Stream& stream);
  void step(std::span<const ParameterGroup> groups, double lr, float gradient_scale,
            Stream& stream) override;
  int64_t steps_taken() const override { return steps_; }
  void set_steps_taken(int64_t steps) override { steps_ = steps; }
  // With "<parameter>.sensitivity" and "<parameter>.uncertainty".
  std::vector<NamedTensor> state() const override;

  // Undefined tensors for a parameter whose importance is not wanted.
  const Importance& importance_of(const Parameter& parameter) const;
  // Whether steps update the importance, or leave it as it is.
  void measure_importance(bool measure) { measures_importance_ = measure; }

 private:
  struct Moments {
    const Parameter* parameter;
    Tensor exp_avg;
    Tensor exp_avg_sq;
    Importance importance;
  };
  AdamWOptions options_;
  std::vector<Moments> moments_;
  int64_t steps_ = 0;
  bool measures_importance_ = true;
};

}  // namespace rankwise
