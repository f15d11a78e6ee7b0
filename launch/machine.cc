// SPDX-License-Identifier: Apache-2.0
#include "launch/machine.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>
#include <sstream>

namespace rankwise {

namespace {

namespace fs = std::filesystem;

// Empty when it cannot be read: /proc and /sys differ from system to system.
std::string slurp(const fs::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::string trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\n");
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(" \t\n") - begin + 1));
}

// Calls use(key, value) for each "key : value" line.
template <class Use>
void for_each_field(const std::string& text, Use use) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(':');
    if (colon != std::string::npos) use(trim(line.substr(0, colon)), trim(line.substr(colon + 1)));
  }
}

int64_t leading_number(std::string_view text) {
  int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

void find_gpus(const fs::path& root, MachineReport& report) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(root / "proc/driver/nvidia/gpus", ignored)) {
    for_each_field(slurp(entry.path() / "information"), [&](const auto& key, const auto& value) {
      if (key == "Model") report.gpus.push_back(value);
    });
  }
  if (report.gpus.empty()) {
    for (const auto& entry : fs::directory_iterator(root / "dev", ignored)) {
      const std::string name = entry.path().filename().string();
      const bool is_numbered = name.starts_with("nvidia") && name.size() > 6 &&
                               name.find_first_not_of("0123456789", 6) == std::string::npos;
      if (is_numbered) report.gpus.push_back("/dev/" + name);
    }
  }
  std::sort(report.gpus.begin(), report.gpus.end());
  // "NVRM version: NVIDIA UNIX ... Kernel Module  550.54.15  ..."
  std::istringstream words(slurp(root / "proc/driver/nvidia/version"));
  for (std::string word; report.gpu_driver.empty() && words >> word;) {
    const bool is_version = word.find('.') != std::string::npos &&
                            word.find_first_not_of("0123456789.") == std::string::npos;
    if (is_version) report.gpu_driver = word;
  }
}

// Null when it is not found.
using DynamicLibrary = std::unique_ptr<void, int (*)(void*)>;
DynamicLibrary open_library(const char* name) {
  return {dlopen(name, RTLD_LAZY | RTLD_LOCAL), dlclose};
}

// "" when `library` has no such function.
template <typename GetVersion>
std::string version_of(const DynamicLibrary& library, const char* function,
                       int64_t (*version_from)(GetVersion)) {
  if (library == nullptr) return "";
  const auto get_version = reinterpret_cast<GetVersion>(dlsym(library.get(), function));
  if (get_version == nullptr) return "";
  const int64_t version = version_from(get_version);
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

int64_t returned(size_t (*get_version)()) { return static_cast<int64_t>(get_version()); }

int64_t written(int (*get_version)(int*)) {
  int version = 0;
  get_version(&version);
  return version;
}

// Value of "key value" in a file of such lines; 0 when it is not there.
int64_t counter(const fs::path& path, std::string_view key) {
  std::istringstream words(slurp(path));
  std::string name;
  for (int64_t value = 0; words >> name >> value;) {
    if (name == key) return value;
  }
  return 0;
}

int64_t usable_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
}

}  // namespace

std::string nccl_version() {
  return version_of(open_library("libnccl.so.2"), "ncclGetVersion", written);
}

std::string cudnn_version() {
  return version_of(open_library("libcudnn.so.9"), "cudnnGetVersion", returned);
}

std::string cublaslt_version() {
  return version_of(open_library(nullptr), "cublasLtGetVersion", returned);
}

void read_cpuinfo(const std::string& text, MachineReport& report) {
  static const std::vector<std::string> kSimd = {"avx2",     "fma",         "f16c",
                                                 "avx512f",  "avx512_vnni", "avx512_bf16",
                                                 "amx_tile", "amx_bf16",    "asimd"};
  std::set<std::string> flags;
  std::set<std::string> sockets;
  std::set<std::pair<std::string, std::string>> cores;
  std::string socket;
  for_each_field(text, [&](const std::string& key, const std::string& value) {
    if (key == "processor") ++report.threads;
    if (key == "model name") report.cpu_model = value;
    if (key == "physical id") sockets.insert(socket = value);
    if (key == "core id") cores.emplace(socket, value);
    if (key == "flags" || key == "Features") {
      std::istringstream words(value);
      for (std::string word; words >> word;) flags.insert(word);
    }
  });
  report.sockets = std::max<int64_t>(1, static_cast<int64_t>(sockets.size()));
  report.cores = cores.empty() ? report.threads : static_cast<int64_t>(cores.size());
  for (const std::string& name : kSimd) {
    if (flags.contains(name)) report.simd.push_back(name);
  }
}

void read_meminfo(const std::string& text, MachineReport& report) {
  for_each_field(text, [&](const std::string& key, const std::string& value) {
    if (key == "MemTotal") report.memory_bytes = leading_number(value) * 1024;
    if (key == "MemAvailable") report.available_bytes = leading_number(value) * 1024;
  });
}

int64_t available_host_bytes(const std::string& root) {
  const fs::path base(root);
  MachineReport report;
  read_meminfo(slurp(base / "proc/meminfo"), report);
  int64_t available = report.available_bytes;
  struct Limit {  // cgroup v2, then v1
    const char* folder;
    const char* limit;
    const char* used;
    const char* cache;
  };
  for (const auto& [folder, limit, used, cache] :
       {Limit{"sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"},
        Limit{"sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
              "total_inactive_file"}}) {
    const int64_t bytes = leading_number(slurp(base / folder / limit));
    if (bytes <= 0) continue;
    const int64_t taken =
        leading_number(slurp(base / folder / used)) - counter(base / folder / "memory.stat", cache);
    available = std::min(available, std::max<int64_t>(1, bytes - taken));
  }
  return available;
}

MachineReport inspect_machine(const std::string& root) {
  const fs::path base(root);
  MachineReport report;
  read_cpuinfo(slurp(base / "proc/cpuinfo"), report);
  read_meminfo(slurp(base / "proc/meminfo"), report);
  report.usable_threads = usable_threads();
  // cgroup v2, then v1; "max" and v1's huge default mean no limit.
  for (const char* file :
       {"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const int64_t limit = leading_number(slurp(base / file));
    if (limit > 0 && limit < report.memory_bytes) report.memory_limit_bytes = limit;
  }
  find_gpus(base, report);
  report.has_libcuda = open_library("libcuda.so.1") != nullptr;
  report.has_libcudnn = open_library("libcudnn.so.9") != nullptr;
  report.nccl = nccl_version();
  for (const char* name :
       {"SLURM_JOB_ID", "SLURM_JOB_PARTITION", "SLURM_JOB_NODELIST", "SLURM_NNODES", "SLURM_NTASKS",
        "SLURM_CPUS_PER_TASK", "SLURM_GPUS_ON_NODE", "SLURM_MPI_TYPE"}) {
    if (const char* value = std::getenv(name)) report.slurm[name] = value;
  }
  return report;
}

}  // namespace rankwise
