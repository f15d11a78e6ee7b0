// SPDX-License-Identifier: Apache-2.0
// ProjectedOptimizer: another optimizer's update, in the low-rank subspace of each weight's
// gradient.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "optim/optimizer.h"
#include "optim/projector.h"

namespace rankwise {

// Which weights are projected, and how.
using ProjectionRule = std::function<std::optional<ProjectionOptions>(const Parameter&)>;
// Makes an optimizer of parameters whose gradients are not yet allocated.
using OptimizerFactory = std::function<std::unique_ptr<Optimizer>(std::span<const ParameterGroup>)>;

// The gradient of a projected weight W is R = left^T G right^T (Parameter::gradient). The inner
// optimizer makes -lr N of it, by a step of zeros of that shape without weight decay; then
//   W = (1 - lr wd) (W - scale lr left N right)
// in one pass, up to a rounding what scaling W afterwards gives. W is F32 or, on CUDA, BF16, which
// is rounded stochastically by (seed, name, step): alike on all ranks of the data axis, a slice as
// the whole. Weights that are not projected belong to the inner optimizer as they are, in F32.
//
// Before the update of a step in which is_due(), the gradient comes from refresh(), or from another
// rank that called it, by broadcast(); in other steps from backward, by projection_of().
class ProjectedOptimizer : public Optimizer {
 public:
  // Called by all ranks; gradients need not be there. Memory as Projector says, and beside the
  // state of the inner optimizers one tensor of the largest R.
  ProjectedOptimizer(std::span<const ParameterGroup> groups, const ProjectionRule& rule,
                     const OptimizerFactory& inner, const DeviceMesh& mesh, Arena& arena,
                     Stream& stream);

  // What backward needs; null for a weight that is not projected.
  const Projection* projection_of(const Parameter& parameter) const;
  const Projector* projector_of(const Parameter& parameter) const;  // or null
  // Of the gradient, for any of the parameters. A gradient that is replicated although the weight
  // is split is to be summed over the tensor axis too.
  Shape gradient_shape(const Parameter& parameter) const {
    return shape_of(trained(parameter).weight);
  }
  ShardSpec gradient_spec(const Parameter& parameter) const { return trained(parameter).spec; }

  // Whether the basis is to be refreshed before the next update; false for others.
  bool is_due(const Parameter& parameter) const;
  // parameter.gradient = g projected on the basis refreshed by g, see Projector. g is the whole
  // gradient, summed over the data axis, and so is the result.
  void refresh(const Parameter& parameter, const Tensor& g, Stream& stream) const;
  // Takes over what refresh() changed from this rank of the data axis. Called by all of its ranks.
  void broadcast(const Parameter& parameter, int root, Stream& stream) const;

  void step(std::span<const ParameterGroup> groups, double lr, float gradient_scale,
            Stream& stream) override;
  int64_t steps_taken() const override { return steps_; }
  void set_steps_taken(int64_t steps) override;
  // That of the inner optimizers, by the names of the weights, and of the projectors.
  std::vector<NamedTensor> state() const override;

 private:
  struct Projected {
    const Parameter* parameter;
    Projector projector;
    Parameter surrogate;  // its weight is memory that all share
    std::unique_ptr<Optimizer> inner;
    Tensor rotated_moment;  // undefined where it is not rotated
  };
  const Projected* find(const Parameter& parameter) const;
  // Of which the inner optimizers know: the surrogate, or the parameter itself.
  const Parameter& trained(const Parameter& parameter) const;
  std::vector<ParameterGroup> others(std::span<const ParameterGroup> groups) const;
  void update(Projected& own, const ParameterGroup& group, double lr, float gradient_scale,
              Stream& stream);

  const DeviceMesh* mesh_;
  std::deque<Projected> projected_;  // inner optimizers keep addresses
  std::unique_ptr<Optimizer> other_;
  int64_t steps_ = 0;
};

}  // namespace rankwise
