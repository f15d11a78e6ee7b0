// SPDX-License-Identifier: Apache-2.0
#include "optim/adamw_optimizer.h"

#include "kernels/adamw.h"
#include "kernels/elementwise.h"

namespace rankwise {

AdamWOptimizer::AdamWOptimizer(std::span<const ParameterGroup> groups, const AdamWOptions& options,
                               Arena& arena, Stream& stream)
    : options_(options) {
  for (const ParameterGroup& group : groups) {
    for (const Parameter* parameter : group.parameters) {
      RW_ASSERT(!is_quantized(parameter->weight), "{} is quantised", parameter->name);
      const Shape& shape = shape_of(parameter->weight);
      Moments moments{parameter, arena.allocate("optimizer", DType::kF32, shape),
                      arena.allocate("optimizer", DType::kF32, shape)};
      fill(moments.exp_avg, 0.0f, stream);
      fill(moments.exp_avg_sq, 0.0f, stream);
      moments_.push_back(moments);
    }
  }
}

void AdamWOptimizer::step(std::span<const ParameterGroup> groups, double lr, float gradient_scale,
                          Stream& stream) {
  ++steps_;
  size_t next = 0;
  for (const ParameterGroup& group : groups) {
    const AdamWParams params{.lr = lr * group.lr_factor,
                             .beta1 = options_.beta1,
                             .beta2 = options_.beta2,
                             .eps = options_.eps,
                             .weight_decay = group.weight_decay,
                             .step = steps_};
    std::vector<AdamWTensors> tensors;
    tensors.reserve(group.parameters.size());
    for (Parameter* parameter : group.parameters) {
      RW_ASSERT(next < moments_.size() && moments_[next].parameter == parameter,
                "{}: not the groups this optimizer was made for", parameter->name);
      const Moments& moments = moments_[next++];
      tensors.push_back(
          {parameter->dense(), moments.exp_avg, moments.exp_avg_sq, parameter->gradient});
    }
    adamw(tensors, gradient_scale, params, stream);
  }
  RW_ASSERT(next == moments_.size(), "{} of {} parameters", next, moments_.size());
}

std::vector<NamedTensor> AdamWOptimizer::state() const {
  std::vector<NamedTensor> state;
  for (const Moments& moments : moments_) {
    state.push_back({moments.parameter->name + ".exp_avg", moments.exp_avg});
    state.push_back({moments.parameter->name + ".exp_avg_sq", moments.exp_avg_sq});
  }
  return state;
}

}  // namespace rankwise
