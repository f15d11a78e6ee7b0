// SPDX-License-Identifier: Apache-2.0
// NamedTensor: a tensor with the name it has in files and state.
#pragma once

#include <string>

#include "runtime/tensor.h"

namespace rankwise {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

}  // namespace rankwise
