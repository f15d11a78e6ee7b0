// SPDX-License-Identifier: Apache-2.0
// SubspaceRefresh: gives a ProjectedOptimizer the whole gradients that its refreshes need, of some
// weights at a time.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "optim/projected_optimizer.h"
#include "runtime/event.h"

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

  // `parameters` of the optimizer, in any order that all ranks share. `products`: the type of
  // products with whole gradients, F32 or on CUDA BF16; exact bases take F32. From "refresh" comes
  // memory for whole gradients, `bytes`, or what the largest weight needs, and not more than all
  // need; a copy of the largest in BF16; and on CUDA copies and scratch for more streams.
  SubspaceRefresh(ProjectedOptimizer& optimizer, std::span<Parameter* const> parameters,
                  int64_t bytes, const DeviceMesh& mesh, Arena& arena,
                  DType products = DType::kF32);

  // Of the step that comes next.
  std::vector<Round> rounds() const;
  // Between begin() of a round and finish().
  bool is_open() const { return is_open_; }
  // Sets Parameter::dense_gradient and fills it with zeros.
  void begin(const Round& round, Stream& stream);
  // Sums the whole gradients over the data axis, divides them by the global count of trained
  // tokens, refreshes, and leaves the projected gradients in Parameter::gradient. Each data rank
  // refreshes its share of the round and broadcasts it. Called by all ranks. When `accept`, given
  // the whole gradients, says no on all ranks, nothing is refreshed, and the result is false.
  using Accept = std::function<bool(const Tensor& whole_gradients)>;
  bool finish(const Round& round, int64_t tokens, Stream& stream, const Accept& accept = {});
  // Of a round just finished, the weights that kept their basis because the gradient gave none.
  // Waits for the stream.
  std::vector<const Parameter*> without_basis(const Round& round, Stream& stream);

 private:
  // Refreshes that run at a time, as many as a layer has matrices: alone, most of one waits for
  // factors of small matrices. Of weights of which kTogether fit into the memory for whole
  // gradients.
  static constexpr int64_t kLanes = 7, kTogether = 4;
  // A stream beside the one of the caller.
  struct Lane {
    explicit Lane(Device device) : stream(device), done(device) {}
    Stream stream;
    Event done;
    Tensor narrow;  // as narrow_
  };
  bool fits_lane(const Parameter& parameter) const;
  void start_lanes(DType products, Arena& arena);
  void refresh_share(const Round& round, Stream& stream);
  void refresh(const Parameter& parameter, const Tensor& narrow, Stream& stream) const;

  ProjectedOptimizer* optimizer_;
  std::vector<Parameter*> projected_;
  const DeviceMesh* mesh_;
  Tensor whole_;            // (elements) F32
  Tensor narrow_;           // (elements of the largest weight) BF16, or undefined
  std::deque<Lane> lanes_;  // beside the stream of the caller
  std::optional<Event> started_;
  // As last seen; from the first begin() on, so that those of a restored state are no news.
  std::map<const Parameter*, int64_t> failures_;
  bool is_open_ = false;
};

}  // namespace rankwise
