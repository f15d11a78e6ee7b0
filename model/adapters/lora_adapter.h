// SPDX-License-Identifier: Apache-2.0
// LoRA: y += scale * B A dropout(x), with A (rank, in) and B (out, rank).
#pragma once

#include "model/adapters/low_rank_adapter.h"

namespace rankwise {

struct LoraOptions {
  int64_t rank = 8;
  double alpha = 16.0;
  bool rslora = false;  // scale alpha / sqrt(rank) instead of alpha / rank
  float dropout = 0.0f;
};

class LoraAdapter : public LowRankAdapter {
 public:
  // A ~ U(-1/sqrt(in), 1/sqrt(in)) from Rng(seed, "<module>.lora_A"), B = 0 (PEFT's default).
  LoraAdapter(const LinearSite& site, const LoraOptions& options, uint64_t seed, Arena& arena,
              Stream& stream);
  std::string method() const override { return "lora"; }
};

}  // namespace rankwise
