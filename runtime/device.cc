// SPDX-License-Identifier: Apache-2.0
#include "runtime/device.h"

#include "runtime/cuda/runtime_calls.h"
#include "runtime/errors.h"

namespace rankwise {

std::string to_string(Device device) {
  return device.is_cuda() ? "cuda:" + std::to_string(device.index) : "cpu";
}

int gpu_count() {
  if constexpr (kHasCuda) return cuda::device_count();
  return 0;
}

void require_device(Device device) {
  if (!device.is_cuda()) return;
  if (!kHasCuda) {
    throw ConfigError(fmt::format("device {}: this build has no CUDA backend", to_string(device)));
  }
  const int count = gpu_count();
  if (device.index < 0 || device.index >= count) {
    throw CommunicationError(fmt::format("device {}: not there, this process can use {} GPU(s)",
                                         to_string(device), count));
  }
}

void select_device(Device device) {
  require_device(device);
  if constexpr (kHasCuda) {
    if (device.is_cuda()) cuda::make_current(device);
  }
}

GpuProperties gpu_properties(int index) {
  require_device({DeviceKind::kCuda, index});
  if constexpr (kHasCuda) return cuda::device_properties(index);
  return {};
}

int64_t device_allocation_count() {
  if constexpr (kHasCuda) return cuda::allocation_count();
  return 0;
}

}  // namespace rankwise
