// SPDX-License-Identifier: Apache-2.0
// LowRankAdapter: y += scale * B diag(e) A dropout(x), what adapters of that form share.
#pragma once

#include <string>

#include "model/adapters/adapter.h"
#include "runtime/rng.h"

namespace rankwise {

// A (rank, in) and B (out, rank); a method with singular values e (rank, 1) makes `e_`.
class LowRankAdapter : public Adapter {
 public:
  // Without dropout, the adapter is its low-rank term.
  std::optional<LowRankTerm> low_rank_term(const ForwardContext& context) override;
  std::unique_ptr<AdapterSaved> forward(const Tensor& y, const Tensor& x,
                                        ForwardContext& context) const override;
  void backward(const Tensor& dx, const Tensor& dy, const Tensor& x, const AdapterSaved& saved,
                ForwardContext& context) override;
  std::vector<Parameter*> parameters() override;
  void merge_into(const Tensor& w, Stream& stream) const override;
  int64_t rank() const override { return rank_; }

  float scale() const { return scale_; }

 protected:
  LowRankAdapter(const LinearSite& site, int64_t rank, double scale, float dropout);

  // "<module>.<name>", trained; its values are not set.
  Parameter make_parameter(const std::string& name, ParameterRole role, const Shape& shape,
                           Arena& arena) const;
  // What the initial values of "<module>.<name>" are drawn from.
  Rng rng_of(const std::string& name, uint64_t seed) const;

  LowRankTerm term() const;
  const LinearSite& site() const { return site_; }

  Parameter a_, b_, e_;

 private:
  void apply_dropout(const Tensor& y, const Tensor& x, ForwardContext& context) const;

  LinearSite site_;
  int64_t rank_;
  float scale_;
  float dropout_;
};

}  // namespace rankwise
