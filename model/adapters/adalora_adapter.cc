// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/adalora_adapter.h"

#include <vector>

#include "kernels/elementwise.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

// On the host, so that every device starts from the same values.
void draw_normal(const Tensor& x, const Rng& rng, Stream& stream) {
  std::vector<float> values(static_cast<size_t>(x.numel()));
  rng.fill_normal(values, 0.0f, 0.02f);
  upload(x, values.data(), stream);
}

}  // namespace

AdaLoraAdapter::AdaLoraAdapter(const LinearSite& site, const AdaLoraOptions& options, uint64_t seed,
                               Arena& arena, Stream& stream)
    : LowRankAdapter(site, options.rank, options.alpha / (static_cast<double>(options.rank) + 1e-5),
                     options.dropout) {
  a_ = make_parameter("lora_A", ParameterRole::kLoraA, {options.rank, site.in_features}, arena);
  b_ = make_parameter("lora_B", ParameterRole::kLoraB, {site.out_features, options.rank}, arena);
  e_ = make_parameter("lora_E", ParameterRole::kLoraE, {options.rank, 1}, arena);
  if (!arena.measuring()) {
    draw_normal(a_.dense(), rng_of("lora_A", seed), stream);
    draw_normal(b_.dense(), rng_of("lora_B", seed), stream);
  }
  fill(e_.dense(), 0.0f, stream);
}

}  // namespace rankwise
