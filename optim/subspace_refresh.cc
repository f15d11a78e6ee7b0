// SPDX-License-Identifier: Apache-2.0
#include "optim/subspace_refresh.h"

#include <algorithm>

#include "kernels/elementwise.h"

namespace rankwise {
namespace {

int owner(size_t index, int ranks) { return static_cast<int>(index % static_cast<size_t>(ranks)); }

int64_t elements_of(const Parameter* parameter) { return shape_of(parameter->weight).numel(); }

}  // namespace

SubspaceRefresh::SubspaceRefresh(ProjectedOptimizer& optimizer,
                                 std::span<Parameter* const> parameters, int64_t bytes,
                                 const DeviceMesh& mesh, Arena& arena)
    : optimizer_(&optimizer), mesh_(&mesh) {
  int64_t all = 0, largest = 0;
  for (Parameter* parameter : parameters) {
    if (optimizer.projection_of(*parameter) == nullptr) continue;
    projected_.push_back(parameter);
    all += elements_of(parameter);
    largest = std::max(largest, elements_of(parameter));
  }
  const int64_t elements = std::min(all, std::max(largest, bytes / 4));
  whole_ = arena.allocate("refresh", DType::kF32, {elements});
}

std::vector<SubspaceRefresh::Round> SubspaceRefresh::rounds() const {
  std::vector<Round> rounds;
  int64_t left = 0;
  for (Parameter* parameter : projected_) {
    if (!optimizer_->is_due(*parameter)) continue;
    if (rounds.empty() || elements_of(parameter) > left) {
      rounds.emplace_back();
      left = whole_.numel();
    }
    rounds.back().push_back(parameter);
    left -= elements_of(parameter);
  }
  return rounds;
}

void SubspaceRefresh::begin(const Round& round, Stream& stream) {
  if (round.empty()) return;
  is_open_ = true;
  int64_t begin = 0;
  for (Parameter* parameter : round) {
    const int64_t end = begin + elements_of(parameter);
    parameter->dense_gradient = whole_.rows(begin, end).reshaped(shape_of(parameter->weight));
    begin = end;
  }
  fill(whole_.rows(0, begin), 0.0f, stream);
}

void SubspaceRefresh::finish(const Round& round, int64_t tokens, Stream& stream) {
  if (round.empty()) return;
  is_open_ = false;
  int64_t end = 0;
  for (const Parameter* parameter : round) end += elements_of(parameter);
  const Tensor used = whole_.rows(0, end);
  mesh_->data().all_reduce(used, ReduceOp::kSum, "whole gradients", stream);
  if (tokens > 0) scale(used, static_cast<float>(1.0 / static_cast<double>(tokens)), stream);
  const int ranks = mesh_->data().size();
  for (size_t i = 0; i < round.size(); ++i) {
    if (owner(i, ranks) != mesh_->data().rank()) continue;
    optimizer_->refresh(*round[i], round[i]->dense_gradient, stream);
  }
  for (size_t i = 0; i < round.size(); ++i) {
    if (ranks > 1) optimizer_->broadcast(*round[i], owner(i, ranks), stream);
    round[i]->dense_gradient = {};
  }
}

}  // namespace rankwise
