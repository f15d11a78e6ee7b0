// SPDX-License-Identifier: Apache-2.0
// One adapter on a module, with gradients, in a context of its own.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "model/adapters/adapter.h"
#include "model/model_plan.h"

namespace rankwise::testing {

inline ModelPlan plan_with_seed(uint64_t seed) {
  ModelPlan plan;
  plan.seed = seed;
  return plan;
}

template <class AdapterType, class Options>
class AdapterBench {
 public:
  AdapterBench(int64_t in, int64_t out, const Options& options, bool training = true)
      : AdapterBench(LinearSite{"model.layers.0.mlp.up_proj", in, out, {}}, options, training) {}
  AdapterBench(const LinearSite& site, const Options& options, bool training = true)
      : adapter(site, options, 42, arena, stream),
        alone(make_single_communicator()),
        context(arena, stream, *alone, plan_with_seed(7), training, 3) {
    for (Parameter* parameter : adapter.parameters()) {
      parameter->gradient = zeros(parameter->dense().shape());
    }
  }

  Tensor zeros(const Shape& shape) {
    const Tensor tensor = arena.allocate("test", DType::kF32, shape);
    std::fill_n(tensor.data<float>(), tensor.numel(), 0.0f);
    return tensor;
  }
  Tensor of(const Shape& shape, const std::vector<float>& values) {
    const Tensor tensor = zeros(shape);
    std::ranges::copy(values, tensor.data<float>());
    return tensor;
  }
  void set(const Tensor& tensor, const std::vector<float>& values) {
    std::ranges::copy(values, tensor.data<float>());
  }
  Parameter& with(ParameterRole role) {
    const auto all = adapter.parameters();
    return **std::ranges::find(all, role, &Parameter::role);
  }
  Parameter& a() { return with(ParameterRole::kLoraA); }
  Parameter& b() { return with(ParameterRole::kLoraB); }
  std::vector<float> output(const Tensor& x) {
    const Tensor y = zeros({x.dim(0), b().dense().dim(0)});
    adapter.forward(y, x, context);
    return values(y);
  }
  static std::vector<float> values(const Tensor& tensor) {
    return {tensor.data<float>(), tensor.data<float>() + tensor.numel()};
  }

  // The loss sum(output(x) * weights) is linear in every value, so that differences are exact up to
  // rounding.
  void expect_gradient(const Tensor& value, const Tensor& gradient, const Tensor& x,
                       const Tensor& weights) {
    const auto loss = [&] {
      const std::vector<float> y = output(x);
      double sum = 0.0;
      for (size_t i = 0; i < y.size(); ++i) {
        sum += static_cast<double>(y[i]) * weights.data<float>()[i];
      }
      return sum;
    };
    for (int64_t i = 0; i < value.numel(); ++i) {
      float& element = value.data<float>()[i];
      const float kept = element;
      element = kept + 0.5f;
      const double above = loss();
      element = kept - 0.5f;
      const double below = loss();
      element = kept;
      EXPECT_NEAR(gradient.data<float>()[i], above - below, 2e-5) << i;
    }
  }

  Arena arena;
  Stream stream;
  AdapterType adapter;
  std::unique_ptr<Communicator> alone;
  ForwardContext context;
};

}  // namespace rankwise::testing
