// SPDX-License-Identifier: Apache-2.0
#include "launch/device_choice.h"

#include <algorithm>

#include "launch/machine.h"
#include "runtime/errors.h"

namespace rankwise {
namespace {

// Of a GPU: code and handles of libraries, which are loaded as they are first used.
constexpr int64_t kLibraryBytes = int64_t{1} << 30;

constexpr int kOldestComputeMajor = 8;

}  // namespace

Device choose_device(DeviceChoice choice, int ranks) {
  const Device gpu{DeviceKind::kCuda, 0};
  if (choice == DeviceChoice::kCpu) return Device{};
  if (choice == DeviceChoice::kAuto) {
    const bool usable = ranks == 1 && gpu_count() > 0 &&
                        gpu_properties(gpu.index).compute_major >= kOldestComputeMajor;
    return usable ? gpu : Device{};
  }
  if (!kHasCuda) {
    throw ConfigError("device: cuda is not in this build; build with the CUDA toolkit");
  }
  if (ranks > 1) throw ConfigError("device: cuda runs on one rank in this version");
  if (gpu_count() == 0) {
    throw ConfigError("device: cuda finds no GPU here; `rankwise doctor` tells what there is");
  }
  const GpuProperties found = gpu_properties(gpu.index);
  if (found.compute_major < kOldestComputeMajor) {
    throw ConfigError(
        fmt::format("device: cuda needs compute capability {}.0 or newer, {} has {}.{}",
                    kOldestComputeMajor, found.name, found.compute_major, found.compute_minor));
  }
  return gpu;
}

DType choose_compute(ComputeType choice, Device device) {
  if (choice == ComputeType::kAuto) return device.is_cuda() ? DType::kBF16 : DType::kF32;
  if (choice == ComputeType::kBf16 && !device.is_cuda()) {
    throw ConfigError("model.compute: bf16 needs device: cuda; the CPU computes in fp32 only");
  }
  return choice == ComputeType::kBf16 ? DType::kBF16 : DType::kF32;
}

std::string describe_device(Device device) {
  if (!device.is_cuda()) return to_string(device);
  return fmt::format("{} ({})", to_string(device), gpu_properties(device.index).name);
}

int64_t logits_bytes(Device device) { return int64_t{device.is_cuda() ? 256 : 32} << 20; }

int64_t available_bytes(Device device, int ranks_on_host) {
  if (!device.is_cuda()) return available_host_bytes() / ranks_on_host;
  return std::max<int64_t>(1, gpu_properties(device.index).free_bytes - kLibraryBytes);
}

}  // namespace rankwise
