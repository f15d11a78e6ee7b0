// SPDX-License-Identifier: Apache-2.0
// Linear: the one place where a base weight, its bias and its adapter meet.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "model/adapters/adapter.h"
#include "model/parameter_loader.h"

namespace rankwise {

struct LinearSaved {
  std::unique_ptr<AdapterSaved> adapter;
};

// Handed out by pointer (parameters): neither copied nor moved.
class Linear {
 public:
  Linear(const LinearSite& site, bool has_bias, const ParameterLoader& loader);
  Linear(const Linear&) = delete;
  Linear& operator=(const Linear&) = delete;

  // y (T, out) = x (T, in) W^T + bias + adapter(x), added to y when `add_to_y`.
  void forward(const Tensor& y, bool add_to_y, const Tensor& x, LinearSaved& saved,
               ForwardContext& context) const;
  // Accumulates the gradients of what is trained here and reports it to the reducer. Writes dx (T,
  // in), or adds to it; dx may be undefined (not wanted), and x when !needs_input().
  void backward(const Tensor& dx, bool add_to_dx, const Tensor& dy, const Tensor& x,
                const LinearSaved& saved, ForwardContext& context, GradientReducer& reducer);

  bool trained() const;      // anything here
  bool needs_input() const;  // backward reads x
  const LinearSite& site() const { return site_; }
  Adapter* adapter() { return adapter_.get(); }
  void collect_parameters(std::vector<Parameter*>& out);          // weight, bias, adapter
  void collect_trained_parameters(std::vector<Parameter*>& out);  // as backward finishes them

 private:
  LinearSite site_;
  Parameter weight_;
  std::optional<Parameter> bias_;
  std::unique_ptr<Adapter> adapter_;
};

}  // namespace rankwise
