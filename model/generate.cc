// SPDX-License-Identifier: Apache-2.0
#include "model/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "model/kv_cache.h"
#include "runtime/rng.h"

namespace rankwise {
namespace {

// Of equal logits the lowest id wins, here and in the nucleus.
int32_t most_likely(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
}

// The smallest set of most likely ids whose probabilities reach top_p, then one of them by `draw`,
// uniform in [0, 1).
int32_t from_nucleus(const std::vector<float>& logits, const GenerateOptions& options,
                     double draw) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::ranges::greater{},
                           [&](int32_t id) { return logits[static_cast<size_t>(id)]; });
  const double largest = logits[static_cast<size_t>(order.front())];
  std::vector<double> weights;  // unnormalised probabilities, most likely first
  weights.reserve(order.size());
  for (const int32_t id : order) {
    weights.push_back(std::exp((logits[static_cast<size_t>(id)] - largest) / options.temperature));
  }
  const double total = std::reduce(weights.begin(), weights.end());
  size_t kept = 0;
  double mass = 0.0;
  while (kept < weights.size() && (kept == 0 || mass < options.top_p * total)) {
    mass += weights[kept++];
  }
  double remaining = draw * mass;
  for (size_t i = 0; i < kept; ++i) {
    remaining -= weights[i];
    if (remaining < 0.0) return order[i];
  }
  return order[kept - 1];
}

}  // namespace

std::vector<int32_t> generate(CausalLm& model, const std::vector<int32_t>& prompt,
                              const GenerateOptions& options, Arena& arena, Stream& stream) {
  RW_ASSERT(!prompt.empty(), "empty prompt");
  const auto scope = arena.scope("kv_cache");
  KvCache cache(model.config(), model.key_value_heads(),
                static_cast<int64_t>(prompt.size()) + options.max_new_tokens, model.compute(),
                arena);
  const Rng rng(options.seed, "generate");
  std::vector<int32_t> out;
  std::vector<int32_t> next = prompt;
  for (int64_t i = 0; i < options.max_new_tokens; ++i) {
    const std::vector<float> logits = model.next_token_logits(next, cache, stream);
    const int32_t id =
        options.temperature > 0.0
            ? from_nucleus(logits, options, rng.uniform_double(static_cast<uint64_t>(i)))
            : most_likely(logits);
    if (std::ranges::find(options.stop_ids, id) != options.stop_ids.end()) break;
    out.push_back(id);
    next = {id};
  }
  return out;
}

}  // namespace rankwise
