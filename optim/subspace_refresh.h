// SPDX-License-Identifier: Apache-2.0
// SubspaceRefresh: gives a ProjectedOptimizer the whole gradients that its refreshes need, of some
// weights at a time.
#pragma once

#include <span>
#include <vector>

#include "optim/projected_optimizer.h"

namespace rankwise {

// Weights are due in turn, so that most steps need the whole gradient of a few; in the first step
// all are due. A round takes as many of them as fit into the memory for whole gradients. When one
// round takes all, the backward pass of the step makes them beside the projected gradients of the
// others:
//   begin(round); backward; GradientReducer::finish_step; finish(round)
// Otherwise each round is a backward pass of its own over the step's batch, and the step's own
// backward pass follows with the new bases.
class SubspaceRefresh {
 public:
  using Round = std::vector<Parameter*>;

  // `parameters` of the optimizer, in any order that all ranks share. Memory for whole gradients is
  // taken from "refresh": `bytes`, or what the largest weight needs, and not more than all need.
  SubspaceRefresh(ProjectedOptimizer& optimizer, std::span<Parameter* const> parameters,
                  int64_t bytes, const DeviceMesh& mesh, Arena& arena);

  // Of the step that comes next.
  std::vector<Round> rounds() const;
  // Between begin() of a round and finish().
  bool is_open() const { return is_open_; }
  // Sets Parameter::dense_gradient and fills it with zeros.
  void begin(const Round& round, Stream& stream);
  // Sums the whole gradients over the data axis, divides them by the global count of trained
  // tokens, refreshes, and leaves the projected gradients in Parameter::gradient. Each data rank
  // refreshes its share of the round and broadcasts it. Called by all ranks.
  void finish(const Round& round, int64_t tokens, Stream& stream);

 private:
  ProjectedOptimizer* optimizer_;
  std::vector<Parameter*> projected_;
  const DeviceMesh* mesh_;
  Tensor whole_;  // (elements) F32
  bool is_open_ = false;
};

}  // namespace rankwise
