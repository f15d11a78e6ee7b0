// SPDX-License-Identifier: Apache-2.0
// Text generation with a key/value cache: greedy or nucleus sampling.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "model/causal_lm.h"

namespace rankwise {

struct GenerateOptions {
  int64_t max_new_tokens = 128;
  double temperature = 0.0;  // 0: greedy
  double top_p = 1.0;
  uint64_t seed = 42;
  std::vector<int32_t> stop_ids = {};  // generation ends after one of these (it is not returned)
};

// New ids after `prompt` (at least one id). Sampled token i is a pure function of (seed, i,
// logits).
std::vector<int32_t> generate(CausalLm& model, const std::vector<int32_t>& prompt,
                              const GenerateOptions& options, Arena& arena, Stream& stream);

}  // namespace rankwise
