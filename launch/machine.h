// SPDX-License-Identifier: Apache-2.0
// MachineReport: what this machine offers to a run, as far as files and libraries tell.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace rankwise {

struct MachineReport {
  std::string cpu_model;
  int64_t sockets = 0;
  int64_t cores = 0;              // physical, of the machine
  int64_t threads = 0;            // logical, of the machine
  int64_t usable_threads = 0;     // that this process may run on
  std::vector<std::string> simd;  // instruction sets that matter to the kernels
  int64_t memory_bytes = 0;       // 0: unknown
  int64_t available_bytes = 0;
  int64_t memory_limit_bytes = 0;  // of the container; 0: none
  std::vector<std::string> gpus;   // models, or device files when the driver does not tell
  std::string gpu_driver;          // version; empty: no driver
  bool has_libcuda = false;
  bool has_libcudnn = false;
  std::string nccl;                          // version; empty: library not found
  std::map<std::string, std::string> slurm;  // the SLURM_ variables of a job
};

// Files are looked for below `root` ("/" outside tests): proc/cpuinfo, proc/meminfo, sys/fs/cgroup,
// dev/nvidia*, proc/driver/nvidia. Nothing that cannot be read is an error.
MachineReport inspect_machine(const std::string& root = "/");

// Of the libraries that this process takes or would take, "9.6.0"; empty: not found. cuBLASLt is
// found where the program is linked with it.
std::string nccl_version();
std::string cudnn_version();
std::string cublaslt_version();

// What this process may still take: available memory, within what is left of a container's limit;
// page cache counts as free. 0: unknown.
int64_t available_host_bytes(const std::string& root = "/");

// The parts that only parse text.
void read_cpuinfo(const std::string& text, MachineReport& report);
void read_meminfo(const std::string& text, MachineReport& report);

}  // namespace rankwise
