// SPDX-License-Identifier: Apache-2.0
// LoRA: y += scale * B A dropout(x), with A (rank, in) and B (out, rank).
#pragma once

#include "model/adapters/adapter.h"

namespace rankwise {

struct LoraOptions {
  int64_t rank = 8;
  double alpha = 16.0;
  bool rslora = false;  // scale alpha / sqrt(rank) instead of alpha / rank
  float dropout = 0.0f;
};

class LoraAdapter : public Adapter {
 public:
  // A ~ U(-1/sqrt(in), 1/sqrt(in)) from Rng(seed, "<module>.lora_A"), B = 0 (PEFT's default).
  LoraAdapter(const LinearSite& site, const LoraOptions& options, uint64_t seed, Arena& arena,
              Stream& stream);
  // Without dropout, LoRA is its low-rank term.
  std::optional<LowRankTerm> low_rank_term(const ForwardContext& context) override;
  std::unique_ptr<AdapterSaved> forward(const Tensor& y, const Tensor& x,
                                        ForwardContext& context) const override;
  void backward(const Tensor& dx, const Tensor& dy, const Tensor& x, const AdapterSaved& saved,
                ForwardContext& context) override;
  std::vector<Parameter*> parameters() override;
  void merge_into(const Tensor& w, Stream& stream) const override;
  std::string method() const override { return "lora"; }
  int64_t rank() const override { return options_.rank; }

  float scale() const { return scale_; }
  const LoraOptions& options() const { return options_; }

 private:
  bool drops(const ForwardContext& context) const;
  LowRankTerm term() const;
  void apply_dropout(const Tensor& y, const Tensor& x, ForwardContext& context) const;

  LinearSite site_;
  LoraOptions options_;
  float scale_;
  Parameter a_, b_;
};

}  // namespace rankwise
