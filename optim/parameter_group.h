// SPDX-License-Identifier: Apache-2.0
// ParameterGroup: parameters that share a learning-rate factor and weight decay.
#pragma once

#include <string>
#include <vector>

#include "parallel/parameter.h"

namespace rankwise {

// LoRA+ is a group of all B matrices with lr_factor = ratio.
struct ParameterGroup {
  std::string name;
  std::vector<Parameter*> parameters;
  double lr_factor = 1.0;
  double weight_decay = 0.0;
};

}  // namespace rankwise
