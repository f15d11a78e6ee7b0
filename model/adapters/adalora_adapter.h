// SPDX-License-Identifier: Apache-2.0
// AdaLoRA: y += scale * B diag(E) A dropout(x), a product in the form of a singular value
// decomposition, whose values E (rank, 1) are masked to spend a budget of ranks.
#pragma once

#include "model/adapters/low_rank_adapter.h"

namespace rankwise {

struct AdaLoraOptions {
  int64_t rank = 12;  // initial; the scale keeps it whatever is masked
  double alpha = 16.0;
  float dropout = 0.0f;
};

class AdaLoraAdapter : public LowRankAdapter {
 public:
  // Scale alpha / (rank + 1e-5). A and B ~ N(0, 0.02^2) from Rng(seed, "<module>.lora_A") and
  // "lora_B", E = 0.
  AdaLoraAdapter(const LinearSite& site, const AdaLoraOptions& options, uint64_t seed, Arena& arena,
                 Stream& stream);
  std::string method() const override { return "adalora"; }
};

}  // namespace rankwise
