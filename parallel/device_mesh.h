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
  // ConfigError when the world size is no multiple of tensor_size. `world` must outlive the mesh.
  DeviceMesh(Communicator& world, int tensor_size);

  Communicator& world() const { return *world_; }
  Communicator& data() const { return *data_; }
  Communicator& tensor() const { return *tensor_; }

 private:
  Communicator* world_;
  std::unique_ptr<Communicator> data_;
  std::unique_ptr<Communicator> tensor_;
};

}  // namespace rankwise
