// SPDX-License-Identifier: Apache-2.0
// Workbench: random operands on one device, and calls over them timed by the device's clock.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/low_rank_linear.h"
#include "launch/benchmarks.h"
#include "launch/benchmarks_timing.h"
#include "model/forward_context.h"
#include "parallel/communicator.h"

namespace rankwise {

enum class BenchmarkWork { kFlops, kBytes };

// `work`: FLOPs or bytes of one call.
BenchmarkRow make_benchmark_row(const BenchmarkShape& shape, const BenchmarkCeiling& ceiling,
                                std::string name, BenchmarkWork kind, double work,
                                const BenchmarkTiming& timing);

// The training of benchmark_step(): of adapters or weights as the shape says, on random tokens.
TrainConfig benchmark_config(const BenchmarkShape& shape);
MicroBatch benchmark_batch(const BenchmarkShape& shape, int data_rank);

// A linear layer of a block, or the head.
struct LayerShape {
  std::string name;
  int64_t out = 0;
  int64_t in = 0;
};
double product_flops(const LayerShape& layer, int64_t tokens);  // forward, or the input's gradient

// Operands live as long as the scope they were made in.
class Workbench {
 public:
  Workbench(const BenchmarkShape& shape, const BenchmarkCeiling& ceiling);

  Stream& stream() { return stream_; }
  const BenchmarkShape& shape() const { return shape_; }
  int64_t tokens() const { return shape_.all_tokens(); }
  double element_bytes() const { return bits_of(shape_.compute) / 8.0; }  // of activations
  [[nodiscard]] Arena::Scope scope() { return arena_.scope("workspace"); }

  // Elements N(0, 1).
  Tensor random(DType dtype, const Shape& shape);
  Tensor random(const Shape& shape) { return random(shape_.compute, shape); }
  // Columns of one matrix (see ForwardContext) of all tokens.
  Columns random_columns(std::span<const int64_t> widths, int64_t tail);
  QuantizedTensor random_nf4(const Shape& shape);
  // Dense, or NF4 when the base is.
  Weight random_weight(const Shape& shape);
  Tensor document_offsets();

  BenchmarkRow& add(std::string name, BenchmarkWork kind, double work,
                    const std::function<void()>& call);
  std::vector<BenchmarkRow> take_rows() { return std::move(rows_); }

 private:
  void fill_random(const Tensor& x);

  BenchmarkShape shape_;
  BenchmarkCeiling ceiling_;
  Arena arena_;
  Stream stream_;
  std::unique_ptr<Communicator> alone_;
  ForwardContext context_;
  uint64_t draws_ = 0;
  std::vector<BenchmarkRow> rows_;
};

// Layers that read one input, in the memory layout of the model.
class LowRankOperands {
 public:
  LowRankOperands(Workbench& bench, int64_t in, const std::vector<int64_t>& outs, int64_t rank);
  LowRankOperands(const LowRankOperands&) = delete;
  LowRankOperands& operator=(const LowRankOperands&) = delete;

  void forward();
  void backward_input();
  void backward_weight();
  double flops() const;           // of forward, or of backward_input
  double gradient_bytes() const;  // that backward_weight has to move

 private:
  Workbench* bench_;
  Columns x_, ys_, dys_;
  Tensor dx_, addend_;
  std::vector<Tensor> downs_, ddowns_;
  std::vector<LowRankGradients> gradients_;
  std::vector<Weight> weights_;
  std::vector<LowRankLinear> layers_;
};

// Causal attention over the documents of the workbench.
class AttentionOperands {
 public:
  explicit AttentionOperands(Workbench& bench);

  void forward();
  void backward();
  double forward_flops() const;

 private:
  Workbench* bench_;
  Tensor q_, k_, v_, y_, dq_, dk_, dv_, dy_, log_sum_exp_, offsets_;
};

}  // namespace rankwise
