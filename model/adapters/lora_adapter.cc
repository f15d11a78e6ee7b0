// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/lora_adapter.h"

#include <cmath>
#include <vector>

#include "kernels/elementwise.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

double scale_of(const LoraOptions& options) {
  const auto rank = static_cast<double>(options.rank);
  return options.alpha / (options.rslora ? std::sqrt(rank) : rank);
}

// Bound of torch's kaiming_uniform_(a = sqrt(5)), which PEFT applies to A.
void fill_kaiming_uniform(const Tensor& a, const Rng& rng, Stream& stream) {
  const float bound = 1.0f / std::sqrt(static_cast<float>(a.dim(1)));
  std::vector<float> values(static_cast<size_t>(a.numel()));
  rng.fill_uniform(values, -bound, bound);
  upload(a, values.data(), stream);
}

}  // namespace

LoraAdapter::LoraAdapter(const LinearSite& site, const LoraOptions& options, uint64_t seed,
                         Arena& arena, Stream& stream)
    : LowRankAdapter(site, options.rank, scale_of(options), options.dropout) {
  a_ = make_parameter("lora_A.weight", ParameterRole::kLoraA, {options.rank, site.in_features},
                      arena);
  b_ = make_parameter("lora_B.weight", ParameterRole::kLoraB, {site.out_features, options.rank},
                      arena);
  if (!arena.measuring()) fill_kaiming_uniform(a_.dense(), rng_of("lora_A", seed), stream);
  fill(b_.dense(), 0.0f, stream);
}

}  // namespace rankwise
