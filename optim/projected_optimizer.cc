// SPDX-License-Identifier: Apache-2.0
#include "optim/projected_optimizer.h"

#include <algorithm>

#include "kernels/elementwise.h"

namespace rankwise {
namespace {

Tensor first_moment(const Optimizer& optimizer, const std::string& name) {
  for (const auto& [key, tensor] : optimizer.state()) {
    if (key == name + ".exp_avg" && tensor.dtype() == DType::kF32) return tensor;
  }
  RW_ASSERT(false, "{}: the inner optimizer has no fp32 moment to rotate", name);
}

}  // namespace

ProjectedOptimizer::ProjectedOptimizer(std::span<const ParameterGroup> groups,
                                       const ProjectionRule& rule, const OptimizerFactory& inner,
                                       const DeviceMesh& mesh, Arena& arena, Stream& stream)
    : mesh_(&mesh) {
  int64_t largest = 0;
  for (const ParameterGroup& group : groups) {
    for (const Parameter* parameter : group.parameters) {
      const std::optional<ProjectionOptions> options = rule(*parameter);
      if (!options) continue;
      projected_.push_back(
          {parameter, Projector(*parameter, *options, mesh, arena, stream), {}, nullptr, {}});
      largest = std::max(largest, projected_.back().projector.projected_shape().numel());
    }
  }
  const Tensor update = arena.allocate("optimizer", DType::kF32, {largest});
  for (Projected& own : projected_) {
    const Shape shape = own.projector.projected_shape();
    own.surrogate.name = own.parameter->name;
    own.surrogate.role = own.parameter->role;
    own.surrogate.spec = own.projector.projected_spec();
    own.surrogate.weight = update.rows(0, shape.numel()).reshaped(shape);
    own.surrogate.trainable = true;
    const ParameterGroup alone{own.surrogate.name, {&own.surrogate}};
    own.inner = inner({&alone, 1});
    if (own.projector.options().rotate_moments) {
      own.rotated_moment = first_moment(*own.inner, own.surrogate.name);
    }
  }
  other_ = inner(others(groups));
}

const ProjectedOptimizer::Projected* ProjectedOptimizer::find(const Parameter& parameter) const {
  const auto found = std::ranges::find(projected_, &parameter, &Projected::parameter);
  return found == projected_.end() ? nullptr : &*found;
}

const Parameter& ProjectedOptimizer::trained(const Parameter& parameter) const {
  const Projected* own = find(parameter);
  return own == nullptr ? parameter : own->surrogate;
}

std::vector<ParameterGroup> ProjectedOptimizer::others(
    std::span<const ParameterGroup> groups) const {
  std::vector<ParameterGroup> others(groups.begin(), groups.end());
  for (ParameterGroup& group : others) {
    std::erase_if(group.parameters, [&](const Parameter* p) { return find(*p) != nullptr; });
  }
  return others;
}

const Projection* ProjectedOptimizer::projection_of(const Parameter& parameter) const {
  const Projector* projector = projector_of(parameter);
  return projector == nullptr ? nullptr : &projector->projection();
}

const Projector* ProjectedOptimizer::projector_of(const Parameter& parameter) const {
  const Projected* own = find(parameter);
  return own == nullptr ? nullptr : &own->projector;
}

bool ProjectedOptimizer::is_due(const Parameter& parameter) const {
  const Projected* own = find(parameter);
  return own != nullptr && own->projector.is_due(steps_);
}

void ProjectedOptimizer::refresh(const Parameter& parameter, const Tensor& g,
                                 Stream& stream) const {
  const Projected* own = find(parameter);
  RW_ASSERT(own != nullptr, "{} is not projected", parameter.name);
  own->projector.refresh(g, own->rotated_moment, stream);
  own->projector.project(parameter.gradient, g, stream);
}

void ProjectedOptimizer::broadcast(const Parameter& parameter, int root, Stream& stream) const {
  const Projected* own = find(parameter);
  RW_ASSERT(own != nullptr, "{} is not projected", parameter.name);
  std::vector<NamedTensor> tensors = own->projector.state();
  tensors.push_back({parameter.name + ".gradient", parameter.gradient});
  if (own->rotated_moment.defined()) {
    tensors.push_back({parameter.name + ".exp_avg", own->rotated_moment});
  }
  for (const auto& [name, tensor] : tensors) mesh_->data().broadcast(tensor, root, name, stream);
}

void ProjectedOptimizer::update(Projected& own, const ParameterGroup& group, double lr,
                                float gradient_scale, Stream& stream) {
  const Parameter& weight = *own.parameter;
  const Tensor& change = own.surrogate.dense();
  own.surrogate.gradient = weight.gradient;
  fill(change, 0.0f, stream);
  const ParameterGroup alone{group.name, {&own.surrogate}};
  own.inner->step({&alone, 1}, lr, gradient_scale, stream);
  // Decay comes after the update: w = keep (w + change), in one pass.
  const float keep = static_cast<float>(1.0 - lr * group.weight_decay);
  const Rng rng(own.projector.options().seed, weight.name + ".rounding",
                static_cast<uint64_t>(steps_));
  const MatrixSlice& part = own.projector.part();
  add_back_projection(weight.dense(), change, own.projector.projection(),
                      {.alpha = keep * static_cast<float>(own.projector.options().scale),
                       .keep = keep,
                       .rng = &rng,
                       .place = {static_cast<uint64_t>(part.first()), part.in()}},
                      stream);
}

void ProjectedOptimizer::step(std::span<const ParameterGroup> groups, double lr,
                              float gradient_scale, Stream& stream) {
  ++steps_;
  other_->step(others(groups), lr, gradient_scale, stream);
  size_t next = 0;
  for (const ParameterGroup& group : groups) {
    for (const Parameter* parameter : group.parameters) {
      if (find(*parameter) == nullptr) continue;
      RW_ASSERT(next < projected_.size() && projected_[next].parameter == parameter,
                "{}: not the groups this optimizer was made for", parameter->name);
      update(projected_[next++], group, lr * group.lr_factor, gradient_scale, stream);
    }
  }
  RW_ASSERT(next == projected_.size(), "{} of {} projected weights", next, projected_.size());
}

void ProjectedOptimizer::set_steps_taken(int64_t steps) {
  steps_ = steps;
  other_->set_steps_taken(steps);
  for (Projected& own : projected_) own.inner->set_steps_taken(steps);
}

std::vector<NamedTensor> ProjectedOptimizer::state() const {
  std::vector<NamedTensor> state = other_->state();
  for (const Projected& own : projected_) {
    std::ranges::copy(own.inner->state(), std::back_inserter(state));
    std::ranges::copy(own.projector.state(), std::back_inserter(state));
  }
  return state;
}

}  // namespace rankwise
