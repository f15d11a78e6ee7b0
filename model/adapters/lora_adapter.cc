// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/lora_adapter.h"

#include <cmath>
#include <span>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "runtime/rng.h"

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
void fill_kaiming_uniform(const Tensor& a, const std::string& module, uint64_t seed) {
  const float bound = 1.0f / std::sqrt(static_cast<float>(a.dim(1)));
  Rng(seed, module + ".lora_A")
      .fill_uniform(std::span(a.data<float>(), static_cast<size_t>(a.numel())), -bound, bound);
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
  if (!arena.measuring()) fill_kaiming_uniform(a_.dense(), site.module, seed);
  fill(b_.dense(), 0.0f, stream);
}

bool LoraAdapter::drops(const ForwardContext& context) const {
  return context.training && options_.dropout > 0.0f;
}

// In place when y is x. Masks are a function of the token's place in the global batch, so that
// recomputation, accumulation and ranks see the same ones.
void LoraAdapter::apply_dropout(const Tensor& y, const Tensor& x, ForwardContext& context) const {
  const Rng rng(context.seed, site_.module + ".dropout", context.step);
  const auto first = static_cast<uint64_t>(context.first_token * site_.in_features);
  dropout(y, x, options_.dropout, rng, first, *context.stream);
}

std::unique_ptr<AdapterSaved> LoraAdapter::forward(const Tensor& y, const Tensor& x,
                                                   ForwardContext& context) const {
  auto saved = std::make_unique<LoraSaved>();
  saved->down = context.allocate(DType::kF32, {x.dim(0), options_.rank});
  const auto scope = context.arena->scope("workspace");
  Tensor input = x;
  if (drops(context)) {
    input = context.allocate_workspace(DType::kF32, x.shape());
    apply_dropout(input, x, context);
  }
  matmul(saved->down, input, a_.dense(), {.transpose_b = true}, *context.stream);
  matmul(y, saved->down, b_.dense(), {.transpose_b = true, .alpha = scale_, .beta = 1.0f},
         *context.stream);
  return saved;
}

void LoraAdapter::backward(const Tensor& dx, const Tensor& dy, const Tensor& x,
                           const AdapterSaved& saved, ForwardContext& context) {
  Stream& stream = *context.stream;
  const Tensor& down = static_cast<const LoraSaved&>(saved).down;
  const auto scope = context.arena->scope("workspace");
  const Tensor ddown = context.allocate_workspace(DType::kF32, down.shape());  // (T, rank)
  matmul(ddown, dy, b_.dense(), {.alpha = scale_}, stream);
  matmul(b_.gradient, dy, down, {.transpose_a = true, .alpha = scale_, .beta = 1.0f}, stream);
  if (!drops(context)) {
    linear_backward_weight(a_.gradient, ddown, x, stream);
    if (dx.defined()) matmul(dx, ddown, a_.dense(), {.beta = 1.0f}, stream);
    return;
  }
  const Tensor full = context.allocate_workspace(DType::kF32, x.shape());
  apply_dropout(full, x, context);
  linear_backward_weight(a_.gradient, ddown, full, stream);
  if (!dx.defined()) return;
  matmul(full, ddown, a_.dense(), {}, stream);
  apply_dropout(full, full, context);
  add(dx, full, stream);
}

std::vector<Parameter*> LoraAdapter::parameters() { return {&b_, &a_}; }

void LoraAdapter::merge_into(const Tensor& w, Stream& stream) const {
  matmul(w, b_.dense(), a_.dense(), {.alpha = scale_, .beta = 1.0f}, stream);
}

}  // namespace rankwise
