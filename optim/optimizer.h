// SPDX-License-Identifier: Apache-2.0
// Optimizer: updates parameter groups from their gradients; its state is named tensors.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "optim/parameter_group.h"
#include "runtime/arena.h"
#include "runtime/named_tensor.h"
#include "runtime/stream.h"

namespace rankwise {

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // One update of every group at rate lr * group.lr_factor; gradients are multiplied by
  // gradient_scale (the clip factor) as they are read.
  virtual void step(std::span<const ParameterGroup> groups, double lr, float gradient_scale,
                    Stream& stream) = 0;
  virtual int64_t steps_taken() const = 0;
  virtual void set_steps_taken(int64_t steps) = 0;
  // "<parameter>.exp_avg" etc.; views, valid as long as the optimizer.
  virtual std::vector<NamedTensor> state() const = 0;
};

}  // namespace rankwise
