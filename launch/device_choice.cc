// SPDX-License-Identifier: Apache-2.0
#include "launch/device_choice.h"

#include <algorithm>
#include <map>

#include "launch/machine.h"
#include "parallel/collective.h"
#include "parallel/nccl_communicator.h"
#include "runtime/errors.h"

namespace rankwise {
namespace {

// Of a GPU: code and handles of libraries, which are loaded as they are first used.
constexpr int64_t kLibraryBytes = int64_t{1} << 30;
// Of several: buffers of NCCL for the axes of the mesh.
constexpr int64_t kNcclBytes = int64_t{1} << 30;

constexpr int kOldestComputeMajor = 8;

// Of the GPU with this number, which becomes the thread's: driver calls about another one would
// leave a context on the first.
RankGpu inspect_gpu(int index, int ranks) {
  RankGpu found{.host = host_name(), .name = {}, .uuid = {}, .lack = {}};
  if (!kHasCuda) {
    found.lack = "is not in this build; build with the CUDA toolkit";
  } else if (ranks > 1 && !kHasNccl) {
    found.lack = "on several ranks needs a build with NCCL";
  } else if (gpu_count() == 0) {
    found.lack = "finds no GPU here; `rankwise doctor` tells what there is";
  } else {
    select_device({DeviceKind::kCuda, index});
    const GpuProperties gpu = gpu_properties(index);
    found.name = gpu.name;
    if (gpu.compute_major >= kOldestComputeMajor) {
      found.uuid = gpu.uuid;
    } else {
      found.lack = fmt::format("needs compute capability {}.0 or newer, {} has {}.{}",
                               kOldestComputeMajor, gpu.name, gpu.compute_major, gpu.compute_minor);
    }
  }
  return found;
}

// Every rank's, in the order of the ranks.
std::vector<RankGpu> gather_gpus(const RankGpu& own, Communicator& world) {
  const auto gather = [&](const std::string& field) {
    return world.gather_text(field, "compare the GPUs of the ranks");
  };
  const std::vector<std::string> hosts = gather(own.host), names = gather(own.name),
                                 uuids = gather(own.uuid), lacks = gather(own.lack);
  std::vector<RankGpu> ranks;
  for (size_t r = 0; r < hosts.size(); ++r) {
    ranks.push_back({hosts[r], names[r], uuids[r], lacks[r]});
  }
  return ranks;
}

}  // namespace

bool ranks_use_gpus(DeviceChoice choice, const std::vector<RankGpu>& ranks) {
  const auto has_gpu = [](const RankGpu& rank) { return !rank.uuid.empty(); };
  const auto with = std::ranges::find_if(ranks, has_gpu);
  const auto without = std::ranges::find_if_not(ranks, has_gpu);
  if (choice == DeviceChoice::kCpu) return false;
  if (with == ranks.end()) {
    if (choice == DeviceChoice::kAuto) return false;
    throw ConfigError("device: cuda " + ranks[0].lack);
  }
  if (without != ranks.end()) {
    throw ConfigError(fmt::format(
        "device: rank {} on host {} has a GPU, rank {} on host {} has none that it can use (cuda "
        "{}); start ranks on hosts with GPUs only, or set device: cpu",
        with - ranks.begin(), with->host, without - ranks.begin(), without->host, without->lack));
  }
  std::map<std::pair<std::string, std::string>, size_t> owners;
  for (size_t r = 0; r < ranks.size(); ++r) {
    const auto [owner, is_new] = owners.try_emplace({ranks[r].host, ranks[r].uuid}, r);
    if (is_new) continue;
    throw ConfigError(fmt::format(
        "device: ranks {} and {} would share one GPU ({}) of host {}; start at most one rank for "
        "each GPU of a host, or set device: cpu",
        owner->second, r, ranks[r].name, ranks[r].host));
  }
  return true;
}

Device choose_device(DeviceChoice choice, Communicator& world, int local_rank) {
  if (choice == DeviceChoice::kCpu) return Device{};
  const int index = local_rank % std::max(1, gpu_count());
  const RankGpu own = inspect_gpu(index, world.size());
  if (!ranks_use_gpus(choice, gather_gpus(own, world))) return Device{};
  return {DeviceKind::kCuda, index};
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

int64_t available_bytes(Device device, int ranks_on_host, int ranks) {
  if (!device.is_cuda()) return available_host_bytes() / ranks_on_host;
  const int64_t libraries = kLibraryBytes + (ranks > 1 ? kNcclBytes : 0);
  return std::max<int64_t>(1, gpu_properties(device.index).free_bytes - libraries);
}

}  // namespace rankwise
