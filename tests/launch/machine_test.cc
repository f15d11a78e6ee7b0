// SPDX-License-Identifier: Apache-2.0
#include "launch/machine.h"

#include <gtest/gtest.h>

#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::ScratchFolder;

constexpr const char* kTwoSockets =
    "processor\t: 0\nmodel name\t: Some CPU\nphysical id\t: 0\ncore id\t: 0\nflags\t: sse avx2 "
    "fma\n\n"
    "processor\t: 1\nmodel name\t: Some CPU\nphysical id\t: 0\ncore id\t: 0\nflags\t: sse avx2 "
    "fma\n\n"
    "processor\t: 2\nmodel name\t: Some CPU\nphysical id\t: 1\ncore id\t: 0\nflags\t: sse avx2 "
    "fma\n";

TEST(Machine, CoresAreCountedOncePerSocketAndCore) {
  MachineReport report;
  read_cpuinfo(kTwoSockets, report);
  EXPECT_EQ(report.cpu_model, "Some CPU");
  EXPECT_EQ(report.sockets, 2);
  EXPECT_EQ(report.cores, 2);
  EXPECT_EQ(report.threads, 3);
  EXPECT_EQ(report.simd, (std::vector<std::string>{"avx2", "fma"}));
}

TEST(Machine, CpuinfoWithoutTopologyCountsThreads) {
  MachineReport report;
  read_cpuinfo("processor\t: 0\nFeatures\t: fp asimd\n\nprocessor\t: 1\nFeatures\t: fp asimd\n",
               report);
  EXPECT_EQ(report.sockets, 1);
  EXPECT_EQ(report.cores, 2);
  EXPECT_EQ(report.simd, std::vector<std::string>{"asimd"});
}

TEST(Machine, ContainerLimitBelowMemoryIsReported) {
  const ScratchFolder root;
  root.write("proc/meminfo", "MemTotal:       1000 kB\nMemAvailable:    500 kB\n");
  root.write("sys/fs/cgroup/memory.max", "max\n");
  MachineReport report = inspect_machine(root.path());
  EXPECT_EQ(report.memory_bytes, 1'024'000);
  EXPECT_EQ(report.available_bytes, 512'000);
  EXPECT_EQ(report.memory_limit_bytes, 0);
  root.write("sys/fs/cgroup/memory.max", "4096\n");
  EXPECT_EQ(inspect_machine(root.path()).memory_limit_bytes, 4096);
}

TEST(Machine, AvailableMemoryIsWhatTheContainerLeavesAndCacheCountsAsFree) {
  const ScratchFolder root;
  EXPECT_EQ(available_host_bytes(root.path()), 0);
  root.write("proc/meminfo", "MemTotal:       1000 kB\nMemAvailable:    500 kB\n");
  EXPECT_EQ(available_host_bytes(root.path()), 512'000);
  root.write("sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(available_host_bytes(root.path()), 512'000);
  root.write("sys/fs/cgroup/memory.max", "400000\n");
  root.write("sys/fs/cgroup/memory.current", "300000\n");
  EXPECT_EQ(available_host_bytes(root.path()), 100'000);
  root.write("sys/fs/cgroup/memory.stat", "anon 200000\ninactive_file 50000\n");
  EXPECT_EQ(available_host_bytes(root.path()), 150'000);
}

TEST(Machine, GpusAreNamedByTheDriverOrElseByTheirDeviceFiles) {
  const ScratchFolder root;
  for (const char* name : {"nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"}) {
    root.write(std::string("dev/") + name, "");
  }
  EXPECT_EQ(inspect_machine(root.path()).gpus,
            (std::vector<std::string>{"/dev/nvidia0", "/dev/nvidia1"}));
  EXPECT_EQ(inspect_machine(root.path()).gpu_driver, "");
  root.write("proc/driver/nvidia/version",
             "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n");
  root.write("proc/driver/nvidia/gpus/0000:17:00.0/information",
             "Model: \t\t NVIDIA H200\nIRQ:   \t\t 1\n");
  EXPECT_EQ(inspect_machine(root.path()).gpus, std::vector<std::string>{"NVIDIA H200"});
  EXPECT_EQ(inspect_machine(root.path()).gpu_driver, "550.54.15");
}

TEST(Machine, NothingReadableIsNoError) {
  const ScratchFolder root;
  const MachineReport report = inspect_machine(root.path());
  EXPECT_EQ(report.cpu_model, "");
  EXPECT_EQ(report.memory_bytes, 0);
  EXPECT_TRUE(report.gpus.empty());
}

}  // namespace
}  // namespace rankwise
