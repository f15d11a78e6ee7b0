// SPDX-License-Identifier: Apache-2.0
// DoRA: y = (x V^T) * m / ||V||, V = W + scale * B A, with a trained magnitude m of each output and
// norms of rows of V that are taken as constants in backward. Source: Liu et al., "DoRA".
#pragma once

#include <vector>

#include "model/adapters/lora_adapter.h"

namespace rankwise {

// The base weight and B A share one product, whose rows carry m / ||V||: a low-rank term with c.
// Dropout, which would need a second product with the base weight, is not offered.
class DoraAdapter : public LoraAdapter {
 public:
  // A and B as in LoRA; options.dropout is 0. m (out) starts as the norms of the rows of V, which
  // are known when the adapter is prepared for the first time, unless it `has_magnitude`: then it
  // is loaded before.
  DoraAdapter(const LinearSite& site, const LoraOptions& options, bool has_magnitude, uint64_t seed,
              Arena& arena, Stream& stream);

  std::optional<RowSquares> wants_row_squares(const Weight& weight,
                                              ForwardContext& context) override;
  // Where the inputs are split, the tensor ranks add up their squares.
  void take_row_squares(const Tensor& squares, ForwardContext& context) override;
  void parameters_changed() override { prepared_ = false; }
  void parameters_restored() override {
    prepared_ = false;
    has_magnitude_ = true;
  }
  std::optional<LowRankTerm> low_rank_term(const ForwardContext& context) override;
  ColumnDots output_dots() override;
  std::vector<Parameter*> parameters() override { return {&b_, &a_, &magnitude_}; }
  void merge_into(const Tensor& w, Stream& stream) const override;
  std::string method() const override { return "dora"; }

 private:
  void start_magnitude(const Tensor& squares, ForwardContext& context);
  // This rank's outputs of a tensor (out).
  Tensor own(const Tensor& x) const;

  Parameter magnitude_;
  Tensor base_squares_;  // (out of this rank) of rows of the base weight, summands as its outputs
  Tensor factors_;       // (out of this rank) m / ||V||
  bool has_base_squares_ = false;
  bool has_magnitude_;
  bool prepared_ = false;
};

}  // namespace rankwise
