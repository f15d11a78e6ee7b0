// SPDX-License-Identifier: Apache-2.0
#include "runtime/device.h"

namespace rankwise {

std::string to_string(Device device) {
  return device.is_cuda() ? "cuda:" + std::to_string(device.index) : "cpu";
}

}  // namespace rankwise
