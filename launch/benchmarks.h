// SPDX-License-Identifier: Apache-2.0
// Benchmarks: rates of the operations a step is made of, each beside this machine's measured
// ceiling.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/model_config.h"

namespace rankwise {

struct BenchmarkShape {
  ModelConfig model;
  int64_t tokens = 512;  // of one micro-batch, one document
  int64_t lora_rank = 8;
  bool quantize_nf4 = true;
  double seconds = 2.0;  // time spent on each row
};

struct BenchmarkRow {
  std::string name;
  std::string unit;     // "GFLOP/s" or "GB/s"
  double median = 0.0;  // of the repetitions
  double best = 0.0;
  double ceiling = 0.0;       // measured in the same run, same unit
  double microseconds = 0.0;  // median time of one call
};

// The products of one block (dense), forward and both gradients, and those of an adapter.
std::vector<BenchmarkRow> benchmark_matmul(const BenchmarkShape& shape);
// Quantise, dequantise, and the product with an NF4 weight.
std::vector<BenchmarkRow> benchmark_nf4(const BenchmarkShape& shape);
// Causal attention, forward and backward, in FLOPs of visible pairs only.
std::vector<BenchmarkRow> benchmark_attention(const BenchmarkShape& shape);
// A whole LoRA training step on one rank, in required FLOPs (StepFlops).
std::vector<BenchmarkRow> benchmark_step(const BenchmarkShape& shape);

}  // namespace rankwise
