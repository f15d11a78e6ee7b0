// SPDX-License-Identifier: Apache-2.0
// Where a verb computes and in which number type: chosen once, before anything is loaded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/config/train_config.h"
#include "parallel/communicator.h"

namespace rankwise {

// Called by all ranks of `world`: the CPU for all, or a GPU of its own for each, which becomes the
// current one of the calling thread. The rank takes the GPU with the number `local_rank` among
// those it sees. ConfigError as ranks_use_gpus() says.
Device choose_device(DeviceChoice choice, Communicator& world, int local_rank);

// The GPU that one rank would take.
struct RankGpu {
  std::string host;
  std::string name;
  std::string uuid;  // empty: it has none,
  std::string lack;  // because cuda ...
};
// auto is CUDA when the ranks have GPUs. ConfigError when only some have one, when two share one,
// or when CUDA is asked for and there is none.
bool ranks_use_gpus(DeviceChoice choice, const std::vector<RankGpu>& ranks);

// auto is BF16 on CUDA, F32 on the CPU. ConfigError for bf16 on the CPU.
DType choose_compute(ComputeType choice, Device device);

// "cpu", or "cuda:0 (NVIDIA H200)".
std::string describe_device(Device device);
// Memory of one chunk of the loss: large enough to keep the device busy.
int64_t logits_bytes(Device device);
// What this one of `ranks` ranks, `ranks_on_host` of them on this host, may take on the device; 0:
// unknown.
int64_t available_bytes(Device device, int ranks_on_host, int ranks);

}  // namespace rankwise
