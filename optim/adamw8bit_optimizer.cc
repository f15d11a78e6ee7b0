// SPDX-License-Identifier: Apache-2.0
#include "optim/adamw8bit_optimizer.h"

#include "kernels/elementwise.h"

namespace rankwise {

AdamW8bitOptimizer::AdamW8bitOptimizer(std::span<const ParameterGroup> groups,
                                       const AdamWOptions& options, Arena& arena, Stream& stream)
    : options_(options) {
  RW_ASSERT(!options.importance.wanted, "8-bit AdamW measures no importance");
  const auto zeros = [&](DType dtype, const Shape& shape) {
    const Tensor x = arena.allocate("optimizer", dtype, shape);
    fill(x, 0.0f, stream);
    return x;
  };
  for (const ParameterGroup& group : groups) {
    for (const Parameter* parameter : group.parameters) {
      RW_ASSERT(!is_quantized(parameter->weight), "{} is quantised", parameter->name);
      const Shape& shape = shape_of(parameter->weight);
      const bool small =
          shape.numel() < kSmallest8bit || parameter->role == ParameterRole::kEmbedding;
      const DType dtype = small ? DType::kF32 : DType::kU8;
      moments_.push_back({parameter, zeros(dtype, shape), zeros(dtype, shape), {}, {}});
      if (small) continue;
      const Shape blocks{adamw8bit_blocks(shape.numel())};
      moments_.back().exp_avg_absmax = zeros(DType::kF32, blocks);
      moments_.back().exp_avg_sq_absmax = zeros(DType::kF32, blocks);
    }
  }
}

void AdamW8bitOptimizer::step(std::span<const ParameterGroup> groups, double lr,
                              float gradient_scale, Stream& stream) {
  ++steps_;
  size_t next = 0;
  for (const ParameterGroup& group : groups) {
    const AdamWParams params{.lr = lr * group.lr_factor,
                             .beta1 = options_.beta1,
                             .beta2 = options_.beta2,
                             .eps = options_.eps,
                             .weight_decay = group.weight_decay,
                             .step = steps_};
    std::vector<AdamWTensors> full;
    std::vector<AdamW8bitTensors> coded;
    for (const Parameter* parameter : group.parameters) {
      RW_ASSERT(next < moments_.size() && moments_[next].parameter == parameter,
                "{}: not the groups this optimizer was made for", parameter->name);
      const Moments& own = moments_[next++];
      if (own.exp_avg_absmax.defined()) {
        coded.push_back({parameter->dense(), parameter->gradient, own.exp_avg, own.exp_avg_absmax,
                         own.exp_avg_sq, own.exp_avg_sq_absmax});
      } else {
        full.push_back({parameter->dense(), own.exp_avg, own.exp_avg_sq, parameter->gradient});
      }
    }
    adamw8bit(coded, gradient_scale, params, stream);
    adamw(full, gradient_scale, params, stream);
  }
  RW_ASSERT(next == moments_.size(), "{} of {} parameters", next, moments_.size());
}

std::vector<NamedTensor> AdamW8bitOptimizer::state() const {
  std::vector<NamedTensor> state;
  for (const auto& [parameter, m, v, m_absmax, v_absmax] : moments_) {
    state.push_back({parameter->name + ".exp_avg", m});
    state.push_back({parameter->name + ".exp_avg_sq", v});
    if (!m_absmax.defined()) continue;
    state.push_back({parameter->name + ".exp_avg_absmax", m_absmax});
    state.push_back({parameter->name + ".exp_avg_sq_absmax", v_absmax});
  }
  return state;
}

}  // namespace rankwise
