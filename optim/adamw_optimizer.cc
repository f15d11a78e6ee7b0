// SPDX-License-Identifier: Apache-2.0
#include "optim/adamw_optimizer.h"

#include <algorithm>

#include "kernels/elementwise.h"

namespace rankwise {

AdamWOptimizer::AdamWOptimizer(std::span<const ParameterGroup> groups, const AdamWOptions& options,
                               Arena& arena, Stream& stream)
    : options_(options) {
  for (const ParameterGroup& group : groups) {
    for (const Parameter* parameter : group.parameters) {
      RW_ASSERT(!is_quantized(parameter->weight), "{} is quantised", parameter->name);
      const auto zeros = [&] {
        const Tensor x = arena.allocate("optimizer", DType::kF32, shape_of(parameter->weight));
        fill(x, 0.0f, stream);
        return x;
      };
      Moments moments{parameter, zeros(), zeros(), {}};
      if (options.importance.wanted && options.importance.wanted(*parameter)) {
        moments.importance = {zeros(), zeros()};
      }
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
                             .step = steps_,
                             .importance_beta1 = options_.importance.beta1,
                             .importance_beta2 = options_.importance.beta2};
    std::vector<AdamWTensors> tensors;
    tensors.reserve(group.parameters.size());
    for (Parameter* parameter : group.parameters) {
      RW_ASSERT(next < moments_.size() && moments_[next].parameter == parameter,
                "{}: not the groups this optimizer was made for", parameter->name);
      const Moments& moments = moments_[next++];
      tensors.push_back({parameter->dense(), moments.exp_avg, moments.exp_avg_sq,
                         parameter->gradient,
                         measures_importance_ ? moments.importance : Importance{}});
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
    const auto& [sensitivity, uncertainty] = moments.importance;
    if (!sensitivity.defined()) continue;
    state.push_back({moments.parameter->name + ".sensitivity", sensitivity});
    state.push_back({moments.parameter->name + ".uncertainty", uncertainty});
  }
  return state;
}

const Importance& AdamWOptimizer::importance_of(const Parameter& parameter) const {
  const auto found = std::ranges::find(moments_, &parameter, &Moments::parameter);
  RW_ASSERT(found != moments_.end(), "{} is not trained", parameter.name);
  return found->importance;
}

}  // namespace rankwise
