// SPDX-License-Identifier: Apache-2.0
// Adapter: changes the output and the gradient of one linear layer; exports itself under PEFT
// names.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/column_dots.h"
#include "kernels/row_norms.h"
#include "model/forward_context.h"
#include "parallel/gradient_reducer.h"
#include "parallel/parameter.h"

namespace rankwise {

// Where an adapter sits: module path without ".weight", e.g. "model.layers.0.self_attn.q_proj".
struct LinearSite {
  std::string module;
  int64_t in_features = 0;   // of the whole layer
  int64_t out_features = 0;  // likewise
  ShardSpec weight_spec;     // placement of the base weight (out, in)
  int tensor_rank = 0;
  int tensor_size = 1;

  // The part of the base weight that this rank holds: its activations have so many columns.
  MatrixSlice slice() const {
    return weight_spec.slice({out_features, in_features}, tensor_rank, tensor_size, module);
  }
  // The layer's outputs on this rank are summands: the tensor ranks add them up.
  bool sums_outputs() const { return tensor_size > 1 && weight_spec == ShardSpec::sharded(1); }
  // Every rank's part of the gradient of the inputs is a summand.
  bool sums_input_gradients() const {
    return tensor_size > 1 && weight_spec.kind == ShardSpec::Kind::kSharded && weight_spec.dim == 0;
  }
};

// What forward keeps for backward; each adapter derives its own and casts it back.
struct AdapterSaved {
  virtual ~AdapterSaved() = default;
};

// y += scale * ((x a^T) * e) b^T with a (rank, in), b (out, rank), e (rank; undefined: ones), and
// then all of y, the base weight's part too, times c (out; undefined: ones): this rank's slices of
// the replicated matrices, and of their gradients where those exist.
struct LowRankTerm {
  Tensor a, b, e;
  LowRankGradients gradients;
  float scale = 0.0f;
  Tensor c = {};

  LowRankLinear beside(const Weight* weight) const { return {weight, a, b, scale, e, c}; }
};

class Adapter {
 public:
  virtual ~Adapter() = default;

  // Some adapters need the norms of the rows of the adapted weight: they are made anew for the
  // first use and after parameters_changed(), of all layers of a block together (prepare_adapters).
  // Not set when nothing is to be done; `weight` is this rank's part of the base, and memory is
  // that of "workspace" until the answer comes.
  virtual std::optional<RowSquares> wants_row_squares(const Weight& /*weight*/,
                                                      ForwardContext& /*context*/) {
    return std::nullopt;
  }
  virtual void take_row_squares(const Tensor& /*squares*/, ForwardContext& /*context*/) {}
  virtual void parameters_changed() {}
  // All parameters were given values that were trained before.
  virtual void parameters_restored() { parameters_changed(); }

  // Defined when such a term is all that this adapter does in this pass: then the linear layer
  // computes it together with its base weight, and forward and backward are not called.
  virtual std::optional<LowRankTerm> low_rank_term(const ForwardContext& context) = 0;

  // y (T, out) += the adapter's contribution for x (T, in), both this rank's columns. With split
  // inputs that is a summand, as the base weight's contribution is.
  virtual std::unique_ptr<AdapterSaved> forward(const Tensor& y, const Tensor& x,
                                                ForwardContext& context) const = 0;
  // Accumulates the gradients of the adapter's parameters and adds its part to dx (T, in); dx may
  // be undefined (not wanted). Activations are of context.compute, rows strided on CUDA.
  virtual void backward(const Tensor& dx, const Tensor& dy, const Tensor& x,
                        const AdapterSaved& saved, ForwardContext& context) = 0;
  // Where the sums over tokens of products of the layer's outputs (T, out of this rank; where the
  // ranks' outputs are summands, their sum) and their gradients go, if backward needs them; the
  // bias is the layer's.
  virtual ColumnDots output_dots() { return {}; }
  virtual std::vector<Parameter*> parameters() = 0;
  // w (out, in) F32, on the adapter's device, the whole base weight: becomes the adapted one.
  virtual void merge_into(const Tensor& w, Stream& stream) const = 0;
  virtual std::string method() const = 0;  // "lora"
  virtual int64_t rank() const = 0;        // of its low-rank term, 0 when it never has one
};

}  // namespace rankwise
