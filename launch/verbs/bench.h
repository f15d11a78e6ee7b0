// SPDX-License-Identifier: Apache-2.0
// `rankwise bench [matmul|nf4|attention|step|allreduce ...]`: measured rates beside the measured
// ceiling.
#pragma once

#include <string>

#include "launch/benchmarks.h"
#include "launch/config/train_config.h"
#include "launch/verbs/verb.h"

namespace rankwise {

// What is measured and where, from a command line.
struct BenchOptions {
  BenchmarkShape shape;  // device, compute and world are those of resolve()
  std::string model;     // config.json, its folder or a store; empty: a small one
  DeviceChoice device = DeviceChoice::kAuto;
  ComputeType compute = ComputeType::kAuto;
  bool json = false;
  std::string output;

  void add_to(CLI::App& app);
  // Completes the shape. ConfigError when there is no such model, or no such device.
  void resolve(Communicator& world, int local_rank);
  // Everything about the measurement and its rows; to the file `output` too, from rank 0.
  std::string report(const BenchmarkCeiling& ceiling, Json rows) const;
  // Where it ran and how fast that machine is, then the titles of table_line(), not ended.
  std::string table_header(const BenchmarkCeiling& ceiling, size_t width) const;
};

// The name is padded to `width`; no line end.
std::string table_line(const std::string& name, const BenchmarkRow& row, size_t width);
Json to_json(const BenchmarkRow& row);

}  // namespace rankwise
