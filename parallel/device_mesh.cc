// SPDX-License-Identifier: Apache-2.0
#include "parallel/device_mesh.h"

namespace rankwise {

DeviceMesh::DeviceMesh(Communicator& world, int tensor_size) : world_(&world) {
  if (tensor_size < 1 || world.size() % tensor_size != 0) {
    throw ConfigError(
        fmt::format("parallel.tensor: {} does not divide the {} rank(s) this job was started with",
                    tensor_size, world.size()));
  }
  const int data_rank = world.rank() / tensor_size;
  const int tensor_rank = world.rank() % tensor_size;
  data_ = world.split(tensor_rank, data_rank, "data");
  tensor_ = world.split(data_rank, tensor_rank, "tensor");
}

}  // namespace rankwise
