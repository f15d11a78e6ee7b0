// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/low_rank_adapter.h"

#include "kernels/elementwise.h"

namespace rankwise {
namespace {

struct LowRankSaved : AdapterSaved {
  Tensor down;  // (T, rank) A dropout(x)
};

}  // namespace

LowRankAdapter::LowRankAdapter(const LinearSite& site, int64_t rank, double scale, float dropout)
    : site_(site), rank_(rank), scale_(static_cast<float>(scale)), dropout_(dropout) {
  RW_ASSERT(rank > 0, "rank {}", rank);
}

Parameter LowRankAdapter::make_parameter(const std::string& name, ParameterRole role,
                                         const Shape& shape, Arena& arena) const {
  Parameter parameter;
  parameter.name = site_.module + "." + name;
  parameter.role = role;
  parameter.weight = arena.allocate("adapters", DType::kF32, shape);
  parameter.trainable = true;
  return parameter;
}

Rng LowRankAdapter::rng_of(const std::string& name, uint64_t seed) const {
  return Rng(seed, site_.module + "." + name);
}

// In place when y is x. Masks are a function of the token's place in the global batch and of the
// input's place in the whole layer, so that recomputation, accumulation and ranks see the same
// ones.
void LowRankAdapter::apply_dropout(const Tensor& y, const Tensor& x,
                                   ForwardContext& context) const {
  const Rng rng(context.seed, site_.module + ".dropout", context.step);
  const int64_t first = context.first_token * site_.in_features + site_.slice().column_begin;
  dropout(y, x, dropout_, rng, {static_cast<uint64_t>(first), site_.in_features}, *context.stream);
}

LowRankTerm LowRankAdapter::term() const {
  const MatrixSlice slice = site_.slice();
  const auto inputs = [&](const Tensor& a) {
    return a.defined() ? a.columns(slice.column_begin, slice.column_end) : a;
  };
  const auto outputs = [&](const Tensor& b) {
    return b.defined() ? b.rows(slice.row_begin, slice.row_end) : b;
  };
  const auto flat = [&](const Tensor& e) { return e.defined() ? e.reshaped({rank_}) : e; };
  return {inputs(a_.dense()),
          outputs(b_.dense()),
          flat(e_.dense()),
          {inputs(a_.gradient), outputs(b_.gradient), flat(e_.gradient)},
          scale_};
}

std::optional<LowRankTerm> LowRankAdapter::low_rank_term(const ForwardContext& context) {
  if (context.training && dropout_ > 0.0f) return std::nullopt;
  return term();
}

std::unique_ptr<AdapterSaved> LowRankAdapter::forward(const Tensor& y, const Tensor& x,
                                                      ForwardContext& context) const {
  auto saved = std::make_unique<LowRankSaved>();
  saved->down = context.allocate(context.compute, {x.dim(0), rank_});
  const auto scope = context.arena->scope("workspace");
  const Tensor input = context.allocate_workspace(context.compute, x.shape());
  apply_dropout(input, x, context);
  const LowRankLinear layer = term().beside(nullptr);
  low_rank_linear({&y, 1}, {&saved->down, 1}, input, {&layer, 1}, y, *context.stream);
  return saved;
}

void LowRankAdapter::backward(const Tensor& dx, const Tensor& dy, const Tensor& x,
                              const AdapterSaved& saved, ForwardContext& context) {
  Stream& stream = *context.stream;
  const Tensor& down = static_cast<const LowRankSaved&>(saved).down;
  const auto scope = context.arena->scope("workspace");
  const LowRankTerm slice = term();
  const LowRankLinear layer = slice.beside(nullptr);
  const Tensor ddown = context.allocate_workspace(context.compute, down.shape());
  const Tensor full = context.allocate_workspace(context.compute, x.shape());
  low_rank_linear_backward_input(dx.defined() ? full : Tensor{}, {&ddown, 1}, {&dy, 1}, {&layer, 1},
                                 0.0f, stream);
  if (dx.defined()) {
    apply_dropout(full, full, context);
    add(dx, full, stream);
  }
  apply_dropout(full, x, context);
  low_rank_linear_backward_weight({&slice.gradients, 1}, {&ddown, 1}, {&dy, 1}, {&down, 1}, full,
                                  {&layer, 1}, stream);
}

std::vector<Parameter*> LowRankAdapter::parameters() {
  if (!e_.dense().defined()) return {&b_, &a_};
  return {&b_, &e_, &a_};
}

void LowRankAdapter::merge_into(const Tensor& w, Stream& stream) const {
  LowRankLinear whole = {.a = a_.dense(), .b = b_.dense(), .scale = scale_};
  if (e_.dense().defined()) whole.e = e_.dense().reshaped({rank_});
  add_low_rank_product(w, whole, stream);
}

}  // namespace rankwise
