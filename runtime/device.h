// SPDX-License-Identifier: Apache-2.0
// Where a tensor lives and an operation runs.
#pragma once

#include <string>

namespace rankwise {

enum class DeviceKind { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;  // CUDA ordinal; 0 on the CPU

  bool is_cuda() const { return kind == DeviceKind::kCuda; }
  bool operator==(const Device&) const = default;
};

// "cpu" or "cuda:1".
std::string to_string(Device device);

}  // namespace rankwise
