// SPDX-License-Identifier: Apache-2.0
// Where a tensor lives and an operation runs.
#pragma once

#include <cstdint>
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

// Whether this build has the CUDA backend. Code that needs it stands behind `if constexpr
// (kHasCuda)`, never behind the preprocessor.
inline constexpr bool kHasCuda = RANKWISE_HAS_CUDA != 0;

// What the driver tells about one GPU.
struct GpuProperties {
  std::string name;
  std::string uuid;  // hexadecimal; the same in every process that sees this GPU
  int compute_major = 0, compute_minor = 0;
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
  int64_t free_bytes = 0;
  int64_t l2_bytes = 0;
};

// GPUs this process can use; 0 without a driver or without the CUDA backend.
int gpu_count();
// ConfigError for a CUDA device that this build has no backend for, CommunicationError for one that
// is not there.
void require_device(Device device);
// Makes a GPU the current one of the calling thread: work can only be given to streams of that one.
// Nothing happens for the CPU. Throws as require_device() does.
void select_device(Device device);
// Throws as require_device() does.
GpuProperties gpu_properties(int index);

// Allocations of device memory that the arenas and streams of this process have made so far.
int64_t device_allocation_count();

}  // namespace rankwise
