// SPDX-License-Identifier: Apache-2.0
#include "optim/subspace_refresh.h"

#include <algorithm>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace rankwise {
namespace {

int owner(size_t index, int ranks) { return static_cast<int>(index % static_cast<size_t>(ranks)); }

int64_t elements_of(const Parameter* parameter) { return shape_of(parameter->weight).numel(); }

}  // namespace

SubspaceRefresh::SubspaceRefresh(ProjectedOptimizer& optimizer,
                                 std::span<Parameter* const> parameters, int64_t bytes,
                                 const DeviceMesh& mesh, Arena& arena, DType products)
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
  if (products != DType::kF32) narrow_ = arena.allocate("refresh", products, {largest});
  start_lanes(products, arena);
}

bool SubspaceRefresh::fits_lane(const Parameter& parameter) const {
  return elements_of(&parameter) * kTogether <= whole_.numel() &&
         optimizer_->projector_of(parameter)->can_follow();
}

void SubspaceRefresh::start_lanes(DType products, Arena& arena) {
  const Device device = arena.device();
  if (!device.is_cuda()) return;
  int64_t count = 0, largest = 0;
  size_t scratch = 0;
  for (const Parameter* parameter : projected_) {
    if (!fits_lane(*parameter)) continue;
    ++count;
    largest = std::max(largest, elements_of(parameter));
    const Projector& projector = *optimizer_->projector_of(*parameter);
    scratch = std::max(scratch, projector.following_scratch_bytes(products));
  }
  for (int64_t lane = 1; lane < std::min(count, kLanes); ++lane) {
    const Tensor narrow =
        narrow_.defined() ? arena.allocate("refresh", products, {largest}) : Tensor();
    const Tensor memory = arena.allocate("refresh", DType::kU8, {static_cast<int64_t>(scratch)});
    if (arena.measuring()) continue;
    Lane& added = lanes_.emplace_back(device);
    added.narrow = narrow;
    added.stream.lend_scratch(memory.raw(), scratch);
    // (timing would see the other lanes)
    set_matmul_tuning(added.stream, false);
  }
  if (!lanes_.empty()) started_.emplace(device);
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
  if (failures_.empty()) {
    for (const Parameter* parameter : projected_) {
      failures_[parameter] = optimizer_->projector_of(*parameter)->failed_refreshes(stream);
    }
  }
  is_open_ = true;
  int64_t begin = 0;
  for (Parameter* parameter : round) {
    const int64_t end = begin + elements_of(parameter);
    parameter->dense_gradient = whole_.rows(begin, end).reshaped(shape_of(parameter->weight));
    begin = end;
  }
  fill(whole_.rows(0, begin), 0.0f, stream);
}

bool SubspaceRefresh::finish(const Round& round, int64_t tokens, Stream& stream,
                             const Accept& accept) {
  if (round.empty()) return true;
  is_open_ = false;
  int64_t end = 0;
  for (const Parameter* parameter : round) end += elements_of(parameter);
  const Tensor used = whole_.rows(0, end);
  mesh_->data().all_reduce(used, ReduceOp::kSum, "whole gradients", stream);
  if (tokens > 0) scale(used, static_cast<float>(1.0 / static_cast<double>(tokens)), stream);
  const bool accepted = !accept || accept(used);
  if (accepted) refresh_share(round, stream);
  const int ranks = mesh_->data().size();
  for (size_t i = 0; i < round.size(); ++i) {
    if (accepted && ranks > 1) optimizer_->broadcast(*round[i], owner(i, ranks), stream);
    round[i]->dense_gradient = {};
  }
  return accepted;
}

std::vector<const Parameter*> SubspaceRefresh::without_basis(const Round& round, Stream& stream) {
  std::vector<const Parameter*> found;
  for (const Parameter* parameter : round) {
    const int64_t failures = optimizer_->projector_of(*parameter)->failed_refreshes(stream);
    int64_t& before = failures_[parameter];
    if (failures > before) found.push_back(parameter);
    before = failures;
  }
  return found;
}

void SubspaceRefresh::refresh_share(const Round& round, Stream& stream) {
  if (started_) started_->record(stream);
  for (Lane& lane : lanes_) started_->hold_back(lane.stream);
  size_t next = 0;
  for (size_t i = 0; i < round.size(); ++i) {
    if (owner(i, mesh_->data().size()) != mesh_->data().rank()) continue;
    const bool beside = fits_lane(*round[i]) && optimizer_->projector_of(*round[i])->follows();
    const size_t lane = beside ? next++ % (lanes_.size() + 1) : 0;
    if (lane == 0) {
      refresh(*round[i], narrow_, stream);
    } else {
      refresh(*round[i], lanes_[lane - 1].narrow, lanes_[lane - 1].stream);
    }
  }
  for (Lane& lane : lanes_) {
    lane.done.record(lane.stream);
    lane.done.hold_back(stream);
  }
}

void SubspaceRefresh::refresh(const Parameter& parameter, const Tensor& narrow,
                              Stream& stream) const {
  Tensor g = parameter.dense_gradient;
  if (narrow.defined() && !optimizer_->projector_of(parameter)->options().exact) {
    g = narrow.rows(0, g.numel()).reshaped(g.shape());
    cast(g, parameter.dense_gradient, stream);
  }
  optimizer_->refresh(parameter, g, stream);
}

}  // namespace rankwise
