// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/dora_adapter.h"

#include "kernels/elementwise.h"
#include "parallel/communicator.h"

namespace rankwise {

DoraAdapter::DoraAdapter(const LinearSite& site, const LoraOptions& options, bool has_magnitude,
                         uint64_t seed, Arena& arena, Stream& stream)
    : LoraAdapter(site, options, seed, arena, stream), has_magnitude_(has_magnitude) {
  RW_ASSERT(options.dropout == 0.0f, "{}: dropout {}", site.module, options.dropout);
  magnitude_ = make_parameter("lora_magnitude_vector", ParameterRole::kMagnitude,
                              {site.out_features}, arena);
  fill(magnitude_.dense(), 0.0f, stream);
  const Shape outputs = {site.slice().shape().dim(0)};
  base_squares_ = arena.allocate("adapters", DType::kF32, outputs);
  factors_ = arena.allocate("adapters", DType::kF32, outputs);
}

Tensor DoraAdapter::own(const Tensor& x) const {
  const MatrixSlice slice = site().slice();
  return x.defined() ? x.rows(slice.row_begin, slice.row_end) : x;
}

std::optional<RowSquares> DoraAdapter::wants_row_squares(const Weight& weight,
                                                         ForwardContext& context) {
  if (prepared_) return std::nullopt;
  if (!has_base_squares_) base_row_squares(base_squares_, weight, *context.stream);
  has_base_squares_ = true;
  const Tensor squares = context.allocate_workspace(DType::kF32, base_squares_.shape());
  RowSquares wanted{squares, base_squares_, term().beside(&weight)};
  if (has_magnitude_ && !site().sums_outputs()) {
    wanted.m = own(magnitude_.dense());
    wanted.c = factors_;
  }
  return wanted;
}

void DoraAdapter::take_row_squares(const Tensor& squares, ForwardContext& context) {
  prepared_ = true;
  if (has_magnitude_ && !site().sums_outputs()) return;
  Stream& stream = *context.stream;
  if (site().sums_outputs()) {
    context.tensor_ranks->all_reduce(squares, ReduceOp::kSum, site().module + " row norms", stream);
  }
  if (!has_magnitude_) start_magnitude(squares, context);
  magnitude_factors(factors_, own(magnitude_.dense()), squares, stream);
}

// All tensor ranks hold all of m. Some may have the same rows, hence the maximum.
void DoraAdapter::start_magnitude(const Tensor& squares, ForwardContext& context) {
  square_roots(own(magnitude_.dense()), squares, *context.stream);
  if (context.tensor_ranks->size() > 1) {
    context.tensor_ranks->all_reduce(magnitude_.dense(), ReduceOp::kMax,
                                     site().module + " magnitude", *context.stream);
  }
  has_magnitude_ = true;
}

std::optional<LowRankTerm> DoraAdapter::low_rank_term(const ForwardContext&) {
  RW_ASSERT(prepared_, "{}: not prepared", site().module);
  LowRankTerm out = term();
  out.c = factors_;
  return out;
}

// Outputs that are sums over the tensor ranks are the same on all of them: the first hands in.
ColumnDots DoraAdapter::output_dots() {
  if (site().sums_outputs() && site().tensor_rank != 0) return {};
  return {.dots = own(magnitude_.gradient), .m = own(magnitude_.dense())};
}

void DoraAdapter::merge_into(const Tensor& w, Stream& stream) const {
  LoraAdapter::merge_into(w, stream);
  set_row_norms(w, magnitude_.dense(), stream);
}

}  // namespace rankwise
