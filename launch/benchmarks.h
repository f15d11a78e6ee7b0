// SPDX-License-Identifier: Apache-2.0
// Benchmarks: rates of the operations a step is made of, each beside the measured ceiling of the
// machine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/config/train_config.h"
#include "model/model_config.h"
#include "model/model_plan.h"
#include "parallel/communicator.h"

namespace rankwise {

struct BenchmarkShape {
  ModelConfig model;
  Device device;
  DType compute = DType::kF32;              // of activations
  int64_t tokens = 512;                     // of one document
  int64_t batch = 1;                        // documents of the micro-batch
  AdaptMethod method = AdaptMethod::kLora;  // of the step; full and galore train all weights
  OptimizerName optimizer = OptimizerName::kAdamW;
  int64_t lora_rank = 8;  // of GaLore's projected gradients with method galore
  bool quantize_nf4 = true;
  Recompute recompute = Recompute::kNone;
  double seconds = 1.0;           // time spent on each row
  Communicator* world = nullptr;  // all ranks, for what they measure together
  int64_t tensor = 1;             // ranks that share the model, in a step
  bool shard_base = false;        // the base is split over the others too

  int64_t all_tokens() const { return batch * tokens; }
  int64_t query_width() const { return model.num_attention_heads * model.head_dim; }
  int64_t key_width() const { return model.num_key_value_heads * model.head_dim; }
};

struct BenchmarkCeiling {
  std::string machine;
  double flops_per_s = 0.0;  // products of the compute type
  double bytes_per_s = 0.0;  // copy, read plus written
};

// Takes about a second.
BenchmarkCeiling measure_ceiling(const BenchmarkShape& shape);

struct BenchmarkRow {
  std::string name;
  std::string unit;     // "GFLOP/s" or "GB/s"; on a GPU "TFLOP/s" or "TB/s"
  double median = 0.0;  // of the repetitions
  double best = 0.0;
  double ceiling = 0.0;       // measured in the same run, same unit; 0: none
  double microseconds = 0.0;  // median time of one call

  std::optional<double> tokens_per_s;           // of a step
  std::optional<double> refresh_seconds;        // of a step with GaLore: bases, mean
  std::optional<double> first_refresh_seconds;  // all bases from random ones
  std::optional<int64_t> peak_bytes;            // of a step: arena and scratch
  std::optional<int64_t> wire_bytes;            // of a step: sent by a rank
};

// The products of one block (dense), forward and both gradients, and those of an adapter.
std::vector<BenchmarkRow> benchmark_matmul(const BenchmarkShape& shape,
                                           const BenchmarkCeiling& ceiling);
// Dequantisation, and products with an NF4 weight, without and with a low-rank term.
std::vector<BenchmarkRow> benchmark_nf4(const BenchmarkShape& shape,
                                        const BenchmarkCeiling& ceiling);
// Causal attention, forward and backward, in FLOPs of visible pairs that are required: 4 D forward
// and 8 D backward for each pair and head, the scores that backward computes again not counted.
std::vector<BenchmarkRow> benchmark_attention(const BenchmarkShape& shape,
                                              const BenchmarkCeiling& ceiling);
// A whole training step on all ranks, with adapters beside all linear layers, or of all weights,
// those of linear layers projected with method galore; AdaLoRA chooses its ranks in every step, and
// GaLore refreshes its bases in turn, each every 200 steps. In required FLOPs (StepFlops) of one
// rank.
std::vector<BenchmarkRow> benchmark_step(const BenchmarkShape& shape,
                                         const BenchmarkCeiling& ceiling);
// All-reduce and all-gather of fp32 over all ranks in bus bandwidth: the bytes that each rank sends
// if they go around a ring, 2 (n - 1) / n and (n - 1) / n of the named size, over the time of the
// slowest rank. ConfigError on one rank.
std::vector<BenchmarkRow> benchmark_allreduce(const BenchmarkShape& shape,
                                              const BenchmarkCeiling& ceiling);

}  // namespace rankwise
