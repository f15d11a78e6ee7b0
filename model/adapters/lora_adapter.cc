// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/lora_adapter.h"

#include <cmath>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "runtime/rng.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

struct LoraSaved : AdapterSaved {
  Tensor down;  // (T, rank) A dropout(x)
};

Parameter make_parameter(const std::string& name, ParameterRole role, const Shape& shape,
                         Arena& arena) {
  Parameter parameter;
  parameter.name = name;
  parameter.role = role;
  parameter.weight = arena.allocate("adapters", DType::kF32, shape);
  parameter.trainable = true;
  return parameter;
}

// Bound of torch's kaiming_uniform_(a = sqrt(5)), which PEFT applies to A.
void fill_kaiming_uniform(const Tensor& a, const std::string& module, uint64_t seed,
                          Stream& stream) {
  const float bound = 1.0f / std::sqrt(static_cast<float>(a.dim(1)));
  std::vector<float> values(static_cast<size_t>(a.numel()));
  Rng(seed, module + ".lora_A").fill_uniform(values, -bound, bound);
  upload(a, values.data(), stream);
}

// A slice of an adapter's matrix in the type of the activations.
Tensor in_compute_type(const Tensor& x, ForwardContext& context) {
  if (x.dtype() == context.compute) return x;
  const Tensor out = context.allocate_workspace(context.compute, x.shape());
  if (x.is_contiguous()) {
    cast(out, x, *context.stream);
    return out;
  }
  const Tensor packed = context.allocate_workspace(x.dtype(), x.shape());
  copy(packed, x, *context.stream);
  cast(out, packed, *context.stream);
  return out;
}

}  // namespace

LoraAdapter::LoraAdapter(const LinearSite& site, const LoraOptions& options, uint64_t seed,
                         Arena& arena, Stream& stream)
    : site_(site), options_(options) {
  RW_ASSERT(options.rank > 0, "rank {}", options.rank);
  const auto rank = static_cast<double>(options.rank);
  scale_ = static_cast<float>(options.alpha / (options.rslora ? std::sqrt(rank) : rank));
  a_ = make_parameter(site.module + ".lora_A.weight", ParameterRole::kLoraA,
                      {options.rank, site.in_features}, arena);
  b_ = make_parameter(site.module + ".lora_B.weight", ParameterRole::kLoraB,
                      {site.out_features, options.rank}, arena);
  if (!arena.measuring()) fill_kaiming_uniform(a_.dense(), site.module, seed, stream);
  fill(b_.dense(), 0.0f, stream);
}

bool LoraAdapter::drops(const ForwardContext& context) const {
  return context.training && options_.dropout > 0.0f;
}

// In place when y is x. Masks are a function of the token's place in the global batch and of the
// input's place in the whole layer, so that recomputation, accumulation and ranks see the same
// ones.
void LoraAdapter::apply_dropout(const Tensor& y, const Tensor& x, ForwardContext& context) const {
  const Rng rng(context.seed, site_.module + ".dropout", context.step);
  const int64_t first = context.first_token * site_.in_features + site_.slice().column_begin;
  dropout(y, x, options_.dropout, rng, {static_cast<uint64_t>(first), site_.in_features},
          *context.stream);
}

LowRankTerm LoraAdapter::term() const {
  const MatrixSlice slice = site_.slice();
  const auto inputs = [&](const Tensor& a) {
    return a.defined() ? a.columns(slice.column_begin, slice.column_end) : a;
  };
  const auto outputs = [&](const Tensor& b) {
    return b.defined() ? b.rows(slice.row_begin, slice.row_end) : b;
  };
  return {inputs(a_.dense()), outputs(b_.dense()), inputs(a_.gradient), outputs(b_.gradient),
          scale_};
}

std::optional<LowRankTerm> LoraAdapter::low_rank_term(const ForwardContext& context) {
  if (drops(context)) return std::nullopt;
  return term();
}

std::unique_ptr<AdapterSaved> LoraAdapter::forward(const Tensor& y, const Tensor& x,
                                                   ForwardContext& context) const {
  auto saved = std::make_unique<LoraSaved>();
  saved->down = context.allocate(context.compute, {x.dim(0), options_.rank});
  const auto scope = context.arena->scope("workspace");
  const Tensor input = context.allocate_workspace(context.compute, x.shape());
  apply_dropout(input, x, context);
  const LowRankTerm slice = term();
  matmul(saved->down, input, in_compute_type(slice.a, context), {.transpose_b = true},
         *context.stream);
  matmul(y, saved->down, in_compute_type(slice.b, context),
         {.transpose_b = true, .alpha = scale_, .beta = 1.0f}, *context.stream);
  return saved;
}

void LoraAdapter::backward(const Tensor& dx, const Tensor& dy, const Tensor& x,
                           const AdapterSaved& saved, ForwardContext& context) {
  Stream& stream = *context.stream;
  const Tensor& down = static_cast<const LoraSaved&>(saved).down;
  const auto scope = context.arena->scope("workspace");
  const LowRankTerm slice = term();
  const Tensor ddown = context.allocate_workspace(context.compute, down.shape());  // (T, rank)
  matmul(ddown, dy, in_compute_type(slice.b, context), {.alpha = scale_}, stream);
  matmul(slice.db, dy, down, {.transpose_a = true, .alpha = scale_, .beta = 1.0f}, stream);
  const Tensor full = context.allocate_workspace(context.compute, x.shape());
  apply_dropout(full, x, context);
  matmul(slice.da, ddown, full, {.transpose_a = true, .beta = 1.0f}, stream);
  if (!dx.defined()) return;
  matmul(full, ddown, in_compute_type(slice.a, context), {}, stream);
  apply_dropout(full, full, context);
  add(dx, full, stream);
}

std::vector<Parameter*> LoraAdapter::parameters() { return {&b_, &a_}; }

void LoraAdapter::merge_into(const Tensor& w, Stream& stream) const {
  matmul(w, b_.dense(), a_.dense(), {.alpha = scale_, .beta = 1.0f}, stream);
}

}  // namespace rankwise
