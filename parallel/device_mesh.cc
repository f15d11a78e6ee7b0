// SPDX-License-Identifier: Apache-2.0
#include "parallel/device_mesh.h"

#include "parallel/nccl_communicator.h"

namespace rankwise {
namespace {

// Gradients and weights of the base travel while the GPU computes, and have time.
constexpr int kBlocksBesideCompute = 4;

}  // namespace

DeviceMesh::DeviceMesh(Communicator& world, int tensor_size, Device device) : world_(&world) {
  if (tensor_size < 1 || world.size() % tensor_size != 0) {
    throw ConfigError(
        fmt::format("parallel.tensor: {} does not divide the {} rank(s) this job was started with",
                    tensor_size, world.size()));
  }
  const int data_rank = world.rank() / tensor_size;
  const int tensor_rank = world.rank() % tensor_size;
  data_ = world.split(tensor_rank, data_rank, "data");
  tensor_ = world.split(data_rank, tensor_rank, "tensor");
  if (!device.is_cuda() || world.size() == 1) return;
  if constexpr (kHasNccl) {
    const NcclConnector nccl(device);
    own_world_ = nccl.connect(world.split(0, world.rank(), "world"), kBlocksBesideCompute);
    world_ = own_world_.get();
    data_ = nccl.connect(std::move(data_), kBlocksBesideCompute);
    tensor_ = nccl.connect(std::move(tensor_), 0);
  } else {
    throw ConfigError("device: cuda on several ranks needs a build with NCCL");
  }
}

}  // namespace rankwise
