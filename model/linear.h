// SPDX-License-Identifier: Apache-2.0
// Linear: the parameters of one linear layer: base weight, bias and adapter.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/adapters/adapter.h"
#include "model/parameter_loader.h"

namespace rankwise {

// What it computes is in LinearGroup. Handed out by pointer (parameters): neither copied nor moved.
class Linear {
 public:
  Linear(const LinearSite& site, bool has_bias, const ParameterLoader& loader);
  Linear(const Linear&) = delete;
  Linear& operator=(const Linear&) = delete;

  bool trained() const;      // anything here
  bool needs_input() const;  // backward reads the input
  const LinearSite& site() const { return site_; }
  Parameter& weight() { return weight_; }
  const Parameter& weight() const { return weight_; }
  const Parameter* bias() const { return bias_ ? &*bias_ : nullptr; }
  Adapter* adapter() const { return adapter_.get(); }
  void collect_parameters(std::vector<Parameter*>& out);          // weight, bias, adapter
  void collect_trained_parameters(std::vector<Parameter*>& out);  // as backward finishes them

 private:
  LinearSite site_;
  Parameter weight_;
  std::optional<Parameter> bias_;
  std::unique_ptr<Adapter> adapter_;
};

// To be called before the adapters of these layers are used, with all layers of a block at once.
void prepare_adapters(std::span<const Linear* const> layers, ForwardContext& context);

}  // namespace rankwise
