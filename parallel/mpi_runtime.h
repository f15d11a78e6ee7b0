// SPDX-License-Identifier: Apache-2.0
// MpiRuntime: MPI from initialisation to finalisation, and the world communicator.
#pragma once

#include <memory>
#include <string>

#include "parallel/communicator.h"

namespace rankwise {

// One per process. Sets MPI_ERRORS_RETURN; every MPI call is checked. When the process was not
// started by mpirun or srun the world has one rank.
class MpiRuntime {
 public:
  MpiRuntime(int* argc, char*** argv);
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  Communicator& world() { return *world_; }
  int local_rank() const { return local_rank_; }  // among the ranks of this host
  int local_size() const { return local_size_; }
  const std::string& host() const { return host_; }
  static std::string library_version();

 private:
  std::unique_ptr<Communicator> world_;
  int local_rank_ = 0;
  int local_size_ = 1;
  std::string host_;
};

}  // namespace rankwise
