// SPDX-License-Identifier: Apache-2.0
#include "parallel/device_mesh.h"

#include "parallel/nccl_communicator.h"

namespace rankwise {

DeviceMesh::DeviceMesh(Communicator& world, int tensor_size, Device device) : world_(&world) {
  if (tensor_size < 1 || world.size() % tensor_size != 0) {
    throw ConfigError(
        fmt::format("parallel.tensor: {} does not divide the {} rank(s) this job was started with",
                    tensor_size, world.size()));
  }
  if (device.is_cuda() && world.size() > 1) {
    if constexpr (kHasNccl) {
      own_world_ = make_nccl_communicator(world.split(0, world.rank(), "world"), device);
      world_ = own_world_.get();
    } else {
      throw ConfigError("device: cuda on several ranks needs a build with NCCL");
    }
  }
  const int data_rank = world.rank() / tensor_size;
  const int tensor_rank = world.rank() % tensor_size;
  data_ = world_->split(tensor_rank, data_rank, "data");
  tensor_ = world_->split(data_rank, tensor_rank, "tensor");
}

}  // namespace rankwise
