// SPDX-License-Identifier: Apache-2.0
#include "launch/version.h"

#include <fmt/format.h>

#include <utility>

#include "build_info.h"
#include "git_commit.h"
#include "kernels/attention.h"
#include "launch/machine.h"
#include "parallel/mpi_runtime.h"
#include "parallel/nccl_communicator.h"
#include "runtime/device.h"

namespace rankwise {

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

Json library_versions() {
  const std::pair<const char*, std::string> candidates[] = {
      {"mpi", MpiRuntime::library_version()},
      {"hdf5", RANKWISE_HDF5_VERSION},
      {"onednn", RANKWISE_ONEDNN_VERSION},
      {"openblas", RANKWISE_OPENBLAS_VERSION},
      {"cuda", RANKWISE_CUDA_VERSION},
      {"cublaslt", kHasCuda ? cublaslt_version() : ""},
      {"cudnn", kHasCudnn ? cudnn_version() : ""},
      {"nccl", kHasNccl ? nccl_version() : ""},
      {"sentencepiece", RANKWISE_SENTENCEPIECE_VERSION},
      {"yaml-cpp", RANKWISE_YAML_CPP_VERSION},
      {"cli11", RANKWISE_CLI11_VERSION},
      {"nlohmann-json", RANKWISE_NLOHMANN_JSON_VERSION},
      {"fmt", RANKWISE_FMT_VERSION},
      {"openssl", RANKWISE_OPENSSL_VERSION},
  };
  Json versions = Json::object();
  for (const auto& [name, version] : candidates) {
    if (!version.empty()) versions[name] = version;
  }
  return versions;
}

}  // namespace

std::string program_version() { return RANKWISE_VERSION; }

std::string git_commit() { return RANKWISE_GIT_COMMIT; }

Json version_json() {
  Json json = Json::object();
  json["version"] = program_version();
  json["commit"] = git_commit();
  json["build_type"] = RANKWISE_BUILD_TYPE;
  json["compiler"] = compiler();
  json["cpu_arch"] = RANKWISE_CPU_ARCH;
  json["backends"] = Json::array({"cpu"});
  if (kHasCuda) json["backends"].push_back("cuda");
  json["libraries"] = library_versions();
  return json;
}

std::string version_text() {
  const Json json = version_json();
  std::string text = fmt::format("rankwise {} ({})\n", program_version(), git_commit());
  const auto add = [&](std::string_view name, const std::string& value) {
    text += fmt::format("  {:<14} {}\n", name, value);
  };
  add("build", fmt::format("{}, {}, cpu kernels for {}", RANKWISE_BUILD_TYPE, compiler(),
                           RANKWISE_CPU_ARCH));
  add("backends", kHasCuda ? "cpu, cuda" : "cpu");
  for (const auto& [name, version] : json["libraries"].items()) {
    add(name, version.get<std::string>());
  }
  return text;
}

}  // namespace rankwise
