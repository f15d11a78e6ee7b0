// SPDX-License-Identifier: Apache-2.0
// DeviceMesh: the ranks as a grid with the named axes `data` and `tensor`.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace rankwise {

// world rank = data_rank * tensor_size + tensor_rank: the tensor axis stays within a host as long
// as its size allows.
class DeviceMesh {
 public:
  // Called by all ranks of `world`, which must outlive the mesh. On a GPU the communicators take
  // tensors in its memory, and world() is one of the mesh's own. ConfigError when the world size is
  // no multiple of tensor_size, or for several ranks on GPUs in a build without NCCL.
  DeviceMesh(Communicator& world, int tensor_size, Device device = {});

  Communicator& world() const { return *world_; }
  Communicator& data() const { return *data_; }
  Communicator& tensor() const { return *tensor_; }
  // Of all three, see Communicator.
  int64_t wire_bytes() const {
    return world_->wire_bytes() + data_->wire_bytes() + tensor_->wire_bytes();
  }

 private:
  std::unique_ptr<Communicator> own_world_;
  Communicator* world_;
  std::unique_ptr<Communicator> data_;
  std::unique_ptr<Communicator> tensor_;
};

}  // namespace rankwise
