// SPDX-License-Identifier: Apache-2.0
#include "optim/sgd_optimizer.h"

#include "kernels/elementwise.h"

namespace rankwise {

SgdOptimizer::SgdOptimizer(std::span<const ParameterGroup> groups, const SgdOptions& options,
                           Arena& arena, Stream& stream)
    : options_(options) {
  for (const ParameterGroup& group : groups) {
    for (const Parameter* parameter : group.parameters) {
      RW_ASSERT(!is_quantized(parameter->weight), "{} is quantised", parameter->name);
      momenta_.push_back({parameter, {}});
      if (options.momentum == 0.0) continue;
      momenta_.back().buffer =
          arena.allocate("optimizer", DType::kF32, shape_of(parameter->weight));
      fill(momenta_.back().buffer, 0.0f, stream);
    }
  }
}

void SgdOptimizer::step(std::span<const ParameterGroup> groups, double lr, float gradient_scale,
                        Stream& stream) {
  ++steps_;
  size_t next = 0;
  for (const ParameterGroup& group : groups) {
    const double rate = lr * group.lr_factor;
    for (const Parameter* parameter : group.parameters) {
      RW_ASSERT(next < momenta_.size() && momenta_[next].parameter == parameter,
                "{}: not the groups this optimizer was made for", parameter->name);
      const Tensor &p = parameter->dense(), &g = parameter->gradient;
      const Tensor& buffer = momenta_[next++].buffer;
      const Tensor change(stream.scratch(static_cast<size_t>(g.bytes())), DType::kF32, g.shape(),
                          stream.device());
      copy(change, g, stream);
      if (gradient_scale != 1.0f) scale(change, gradient_scale, stream);
      if (buffer.defined()) {
        scale(buffer, static_cast<float>(options_.momentum), stream);
        add(buffer, change, stream);
        copy(change, buffer, stream);
      }
      scale(change, static_cast<float>(-rate), stream);
      if (group.weight_decay != 0.0) {
        scale(p, static_cast<float>(1.0 - rate * group.weight_decay), stream);
      }
      add(p, change, stream);
    }
  }
  RW_ASSERT(next == momenta_.size(), "{} of {} parameters", next, momenta_.size());
}

std::vector<NamedTensor> SgdOptimizer::state() const {
  std::vector<NamedTensor> state;
  for (const auto& [parameter, buffer] : momenta_) {
    if (buffer.defined()) state.push_back({parameter->name + ".momentum_buffer", buffer});
  }
  return state;
}

}  // namespace rankwise
