// SPDX-License-Identifier: Apache-2.0
// Parameters with weights and gradients given as numbers, for optimizer tests.
#pragma once

#include <algorithm>
#include <deque>
#include <string>
#include <vector>

#include "optim/parameter_group.h"
#include "runtime/arena.h"

namespace rankwise::testing {

class TrainedParameters {
 public:
  Parameter& add(const std::string& name, const std::vector<float>& weight) {
    const Shape shape{static_cast<int64_t>(weight.size())};
    Parameter parameter;
    parameter.name = name;
    parameter.weight = arena_.allocate("weights", DType::kF32, shape);
    parameter.gradient = arena_.allocate("gradients", DType::kF32, shape);
    parameter.trainable = true;
    std::copy(weight.begin(), weight.end(), parameter.dense().data<float>());
    std::fill_n(parameter.gradient.data<float>(), weight.size(), 0.0f);
    parameters_.push_back(std::move(parameter));
    return parameters_.back();
  }
  Arena& arena() { return arena_; }

 private:
  Arena arena_;
  std::deque<Parameter> parameters_;  // addresses stay
};

inline float& weight(Parameter& parameter, int64_t i = 0) {
  return parameter.dense().data<float>()[i];
}
inline float& gradient(Parameter& parameter, int64_t i = 0) {
  return parameter.gradient.data<float>()[i];
}

}  // namespace rankwise::testing
