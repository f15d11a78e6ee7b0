// SPDX-License-Identifier: Apache-2.0
// MpiRuntime: MPI from initialisation to finalisation, and the world communicator.
#pragma once

#include <memory>
#include <string>

#include "parallel/communicator.h"
#include "parallel/peer_monitor.h"

namespace rankwise {

// One per process. Sets MPI_ERRORS_RETURN; every MPI call is checked. When the process was not
// started by mpirun or srun the world has one rank.
class MpiRuntime {
 public:
  // `end` is what the monitor of the ranks does when the job has to end; without it this process
  // leaves with the code.
  MpiRuntime(int* argc, char*** argv, PeerMonitor::End end = {});
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  Communicator& world() { return *world_; }
  PeerMonitor* monitor() { return monitor_.get(); }  // null when the rank is alone
  int local_rank() const { return local_rank_; }     // among the ranks of this host
  int local_size() const { return local_size_; }
  const std::string& host() const { return host_; }
  static std::string library_version();

 private:
  std::unique_ptr<Communicator> world_;
  int local_rank_ = 0;
  int local_size_ = 1;
  std::string host_;
  std::unique_ptr<PeerMonitor> monitor_;
};

}  // namespace rankwise
