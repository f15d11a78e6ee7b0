// SPDX-License-Identifier: Apache-2.0
// LinearGroup: linear layers that read the same input; the one place where base weights, biases and
// adapters meet.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/column_dots.h"
#include "kernels/low_rank_linear.h"
#include "model/linear.h"

namespace rankwise {

// What forward leaves for backward, one entry per layer.
struct LinearGroupSaved {
  std::vector<Tensor> downs;   // (T, rank) of low-rank terms; may lie in the tail of the input
  std::vector<Tensor> ddowns;  // their gradients, between the two halves of backward
  std::vector<std::unique_ptr<AdapterSaved>> adapters;  // of those that compute by themselves
  std::vector<ColumnDots> dots;                         // made in backward
};

// x (T, in) with `tail()` columns behind it where the device makes use of them.
struct LinearInput {
  Tensor x;
  Tensor tail;
  bool kept = false;  // lives until backward
};

class LinearGroup {
 public:
  // The layers must outlive the group. Backward finishes them in this order.
  explicit LinearGroup(std::vector<Linear*> layers) : layers_(std::move(layers)) {}

  // ys[i] (T, out_i) = x W_i^T + bias_i + adapter_i(x) + addend, on this rank's slices of inputs or
  // outputs; where the inputs are split, the tensor ranks add up what they have, and the addend and
  // the bias, which all of them know, come from the first. addend (T, out): undefined, or for a
  // group of one layer. keeps_saved: backward will read `saved` (else it may end with x).
  void forward(std::span<const Tensor> ys, const Tensor& addend, const LinearInput& input,
               bool keeps_saved, LinearGroupSaved& saved, ForwardContext& context) const;
  // Makes saved.dots, one entry per layer, from the adapters' output_dots. Whoever has the outputs
  // adds to them before backward_weights.
  void make_output_dots(LinearGroupSaved& saved) const;
  // backward_input, then backward_weights. Where the outputs are split, the tensor ranks add up
  // their parts of dx while the gradients of the weights are computed.
  void backward(const Tensor& dx, const Columns& dys, const Tensor& x, LinearGroupSaved& saved,
                ForwardContext& context, GradientReducer& reducer) const;
  // Writes this rank's part of dx (T, in) unless it is undefined. `dys` may have tail() columns
  // behind them. x is read only when needs_input_first(). What it leaves in `saved` ends with the
  // caller's workspace.
  void backward_input(const Tensor& dx, const Columns& dys, const Tensor& x,
                      LinearGroupSaved& saved, ForwardContext& context) const;
  // Accumulates the gradients of what is trained here and reports it to the reducer. x may be
  // undefined when !needs_input().
  void backward_weights(const Columns& dys, const Tensor& x, const LinearGroupSaved& saved,
                        ForwardContext& context, GradientReducer& reducer) const;

  std::vector<int64_t> widths() const;  // of this rank's outputs
  int64_t tail() const;                 // padded sum of the ranks of low-rank terms
  bool trained() const;
  bool needs_input() const;
  // Some adapter computes by itself, and reads x for its part of dx.
  bool needs_input_first(const ForwardContext& context) const;

 private:
  std::vector<LowRankLinear> terms(const ForwardContext& context) const;

  std::vector<Linear*> layers_;
};

}  // namespace rankwise
