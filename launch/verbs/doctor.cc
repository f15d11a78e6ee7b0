// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <ostream>
#include <string_view>

#include "kernels/attention.h"
#include "launch/machine.h"
#include "launch/progress_line.h"
#include "launch/verbs/verb.h"
#include "launch/version.h"
#include "parallel/nccl_communicator.h"
#include "runtime/device.h"
#include "runtime/errors.h"

namespace rankwise {
namespace {

std::string describe_memory(const MachineReport& machine) {
  if (machine.memory_bytes == 0) return "unknown";
  std::string text = fmt::format("{}, {} available", format_bytes(machine.memory_bytes),
                                 format_bytes(machine.available_bytes));
  if (machine.memory_limit_bytes > 0) {
    text += fmt::format(", limited to {} here", format_bytes(machine.memory_limit_bytes));
  }
  return text;
}

// One text for each GPU this process can use; without any, what the system knows of them.
std::vector<std::string> describe_gpus(const MachineReport& machine) {
  std::vector<std::string> texts;
  for (int i = 0; i < gpu_count(); ++i) {
    const GpuProperties gpu = gpu_properties(i);
    texts.push_back(fmt::format("{}: {}, compute capability {}.{}, {}, {} free",
                                to_string(Device{DeviceKind::kCuda, i}), gpu.name,
                                gpu.compute_major, gpu.compute_minor,
                                format_bytes(gpu.memory_bytes), format_bytes(gpu.free_bytes)));
  }
  if (!texts.empty()) return texts;
  return machine.gpus.empty() ? std::vector<std::string>{"none"} : machine.gpus;
}

// What is missing, and what to do about it.
std::vector<std::string> advice(const MachineReport& machine) {
  std::vector<std::string> lines;
  const auto has_simd = [&](std::string_view name) {
    return std::ranges::find(machine.simd, name) != machine.simd.end();
  };
  if (!has_simd("avx2") && !has_simd("asimd")) {
    lines.emplace_back("the CPU has no AVX2: kernels run, but several times slower");
  }
  if (!version_json()["libraries"].contains("onednn")) {
    lines.emplace_back(
        "built without oneDNN: install libdnnl-dev and build again for faster matmul");
  }
  if (machine.usable_threads > 0 && machine.usable_threads < machine.threads) {
    lines.push_back(
        fmt::format("this process may use {} of {} hardware threads (taskset, cgroup, "
                    "or the job's allocation)",
                    machine.usable_threads, machine.threads));
  }
  if (!machine.gpus.empty() && machine.gpu_driver.empty() && !machine.has_libcuda) {
    lines.emplace_back("a GPU without its driver: install the NVIDIA driver");
  }
  if (!machine.gpus.empty() && !kHasCuda) {
    lines.emplace_back(
        "there is a GPU, but this build has no CUDA backend: everything runs on the CPU");
  } else if (!machine.gpus.empty() && !(kHasCudnn && machine.has_libcudnn)) {
    lines.emplace_back(kHasCudnn ? "libcudnn.so.9 is not found: attention runs on slower kernels"
                                 : "built without cuDNN: attention runs on slower kernels");
  }
  if (gpu_count() > 1 && !kHasNccl) {
    lines.emplace_back("built without NCCL: a run uses one GPU; install NCCL and build again");
  }
  if (kHasCuda && !machine.gpus.empty() && gpu_count() == 0) {
    lines.push_back(fmt::format(
        "there is a GPU, but the CUDA {} runtime of this build can use none: a newer driver may be "
        "needed, or CUDA_VISIBLE_DEVICES hides it",
        version_json()["libraries"].value("cuda", "")));
  }
  return lines;
}

class DoctorVerb : public Verb {
 public:
  std::string name() const override { return "doctor"; }
  std::string help() const override { return "what this machine offers and lacks"; }
  void add_options(CLI::App&) override {}

  int run(VerbContext& context) override {
    const MachineReport machine = inspect_machine();
    const auto add = [&](std::string_view name, std::string_view value) {
      context.out << fmt::format("{:<10} {}\n", name, value);
    };
    add("host", context.host);
    add("cpu",
        fmt::format("{}; {} socket(s), {} core(s), {} thread(s), {} usable",
                    machine.cpu_model.empty() ? "unknown model" : machine.cpu_model,
                    machine.sockets, machine.cores, machine.threads, machine.usable_threads));
    add("simd", machine.simd.empty() ? "none" : fmt::format("{}", fmt::join(machine.simd, " ")));
    add("memory", describe_memory(machine));
    for (const std::string& gpu : describe_gpus(machine)) add("gpu", gpu);
    add("driver", machine.gpu_driver.empty() ? "none" : machine.gpu_driver);
    add("libcuda", machine.has_libcuda ? "found" : "not found");
    add("libcudnn", machine.has_libcudnn ? "found" : "not found");
    add("nccl", machine.nccl.empty() ? "not found" : machine.nccl);
    add("ranks",
        fmt::format("{}, {} of them on this host", context.world.size(), context.local_size));
    if (machine.slurm.empty()) add("slurm", "not inside a job");
    for (const auto& [name, value] : machine.slurm) add("slurm", name + "=" + value);
    context.out << "\n" << version_text() << "\n";

    const std::vector<std::string> lines = advice(machine);
    if (lines.empty()) context.out << "nothing to improve\n";
    for (const std::string& line : lines) context.out << "advice: " << line << "\n";
    return static_cast<int>(ExitCode::kDone);
  }
};

}  // namespace

std::unique_ptr<Verb> make_doctor_verb() { return std::make_unique<DoctorVerb>(); }

}  // namespace rankwise
