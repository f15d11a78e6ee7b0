// SPDX-License-Identifier: Apache-2.0
// Where a verb computes and in which number type: chosen once, before anything is loaded.
#pragma once

#include <cstdint>
#include <string>

#include "launch/config/train_config.h"
#include "runtime/device.h"

namespace rankwise {

// auto is CUDA when this build has the backend, there is a GPU and `ranks` is 1. ConfigError when
// CUDA is asked for and one of them is missing.
Device choose_device(DeviceChoice choice, int ranks);
// auto is BF16 on CUDA, F32 on the CPU. ConfigError for bf16 on the CPU.
DType choose_compute(ComputeType choice, Device device);

// "cpu", or "cuda:0 (NVIDIA H200)".
std::string describe_device(Device device);
// Memory of one chunk of the loss: large enough to keep the device busy.
int64_t logits_bytes(Device device);
// What one of `ranks_on_host` ranks may take on the device; 0: unknown.
int64_t available_bytes(Device device, int ranks_on_host);

}  // namespace rankwise
