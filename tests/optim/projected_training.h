// SPDX-License-Identifier: Apache-2.0
// Matrices trained by a ProjectedOptimizer from dense gradients given as whole matrices.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/elementwise.h"
#include "optim/adamw8bit_optimizer.h"
#include "optim/projected_optimizer.h"
#include "optim/sgd_optimizer.h"
#include "tests/support/kernel_harness.h"

namespace rankwise::testing {

inline std::vector<float> values_of(const Tensor& x) {
  const auto span = GuardedMemory::elements(x);
  return {span.begin(), span.end()};
}
inline void write(const Tensor& x, const std::vector<float>& values) {
  ASSERT_EQ(static_cast<size_t>(x.numel()), values.size());
  std::ranges::copy(values, x.data<float>());
}

// Random, the same for the same arguments.
inline std::vector<float> random_values(const Shape& shape, uint64_t seed,
                                        const std::string& name = "gradient") {
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  Rng(seed, name).fill_normal(values, 0.0f, 1.0f);
  return values;
}

class ProjectedTraining {
 public:
  explicit ProjectedTraining(Communicator& world, int tensor_size = 1,
                             Arena::Mode memory = Arena::Mode::kReserve)
      : mesh_(world, tensor_size),
        arena_({}, memory),
        stream_({}, arena_.measuring() ? Stream::Mode::kMeasure : Stream::Mode::kExecute) {}

  Parameter& add(const std::string& name, const Shape& whole, const ShardSpec& spec = {}) {
    Parameter& p = parameters_.emplace_back();
    p.name = name;
    p.spec = spec;
    p.trainable = true;
    wholes_.push_back(whole);
    const auto& tensor = mesh_.tensor();
    p.weight = arena_.allocate("weights", DType::kF32,
                               spec.local_shape(whole, tensor.rank(), tensor.size(), name));
    if (!arena_.measuring()) write(p.dense(), part(random_values(whole, 1, name), p));
    groups_[0].parameters.push_back(&p);
    return p;
  }
  // After all were added. Names that begin with "plain" are not projected.
  template <class Inner, class InnerOptions>
  ProjectedOptimizer& start(const ProjectionOptions& options, const InnerOptions& inner) {
    optimizer_ = std::make_unique<ProjectedOptimizer>(
        groups_,
        [&](const Parameter& p) {
          return p.name.starts_with("plain") ? std::nullopt : std::optional(options);
        },
        [&](std::span<const ParameterGroup> groups) {
          return std::make_unique<Inner>(groups, inner, arena_, stream_);
        },
        mesh_, arena_, stream_);
    for (Parameter& p : parameters_) {
      p.gradient = arena_.allocate("gradients", DType::kF32, optimizer_->gradient_shape(p));
    }
    return *optimizer_;
  }

  // This rank's part of a whole matrix.
  std::vector<float> part(const std::vector<float>& whole, const Parameter& p) const {
    const Shape& shape = whole_of(p);
    const auto& tensor = mesh_.tensor();
    const MatrixSlice slice = p.spec.slice(shape, tensor.rank(), tensor.size(), p.name);
    std::vector<float> values;
    for (int64_t row = slice.row_begin; row < slice.row_end; ++row) {
      const auto begin = whole.begin() + row * shape.dim(1);
      values.insert(values.end(), begin + slice.column_begin, begin + slice.column_end);
    }
    return values;
  }
  // p.gradient from the whole gradient, which refreshes the basis where that is due.
  void give(Parameter& p, const std::vector<float>& whole) {
    const Arena::Scope scope = arena_.scope("dense");
    const Tensor g = arena_.allocate("dense", DType::kF32, shape_of(p.weight));
    if (!arena_.measuring()) write(g, part(whole, p));
    const Projection* projection = optimizer_->projection_of(p);
    if (projection == nullptr) return copy(p.gradient, g, stream_);
    if (optimizer_->is_due(p)) return optimizer_->refresh(p, g, stream_);
    project(p.gradient, g, *projection, stream_);
    if (p.spec != ShardSpec() && optimizer_->gradient_spec(p) == ShardSpec()) {
      mesh_.tensor().all_reduce(p.gradient, ReduceOp::kSum, "gradient", stream_);
    }
  }
  void step(double lr = 0.01) { optimizer_->step(groups_, lr, 1.0f, stream_); }
  // Random gradients by step and name.
  void train(int steps) {
    for (int i = 0; i < steps; ++i) {
      const auto seed = static_cast<uint64_t>(optimizer_->steps_taken());
      for (Parameter& p : parameters_) give(p, random_values(whole_of(p), seed, p.name));
      step();
    }
  }

  // By name, of the weights with failed refreshes.
  std::map<std::string, int64_t> failed_refreshes() {
    std::map<std::string, int64_t> failed;
    for (const Parameter& p : parameters_) {
      const Projector* projector = optimizer_->projector_of(p);
      const int64_t count = projector == nullptr ? 0 : projector->failed_refreshes(stream_);
      if (count > 0) failed[p.name] = count;
    }
    return failed;
  }

  std::map<std::string, Tensor> state() const {
    std::map<std::string, Tensor> state;
    for (const auto& [name, tensor] : optimizer_->state()) state[name] = tensor;
    return state;
  }
  const Shape& whole_of(const Parameter& p) const {
    const auto index = std::ranges::find(parameters_, p.name, &Parameter::name);
    return wholes_[static_cast<size_t>(index - parameters_.begin())];
  }
  std::deque<Parameter>& parameters() { return parameters_; }
  std::vector<ParameterGroup>& groups() { return groups_; }
  ProjectedOptimizer& optimizer() { return *optimizer_; }
  const DeviceMesh& mesh() const { return mesh_; }
  Arena& arena() { return arena_; }
  Stream& stream() { return stream_; }

 private:
  DeviceMesh mesh_;
  Arena arena_;
  Stream stream_;
  std::deque<Parameter> parameters_;  // addresses stay
  std::vector<Shape> wholes_;
  std::vector<ParameterGroup> groups_{{"all", {}, 1.0, 0.0}};
  std::unique_ptr<ProjectedOptimizer> optimizer_;
};

}  // namespace rankwise::testing
