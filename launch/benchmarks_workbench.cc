// SPDX-License-Identifier: Apache-2.0
#include "launch/benchmarks_workbench.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/gpu_ceiling.h"
#include "kernels/machine_ceiling.h"
#include "kernels/quantize.h"
#include "launch/device_random_weights.h"
#include "launch/machine.h"
#include "runtime/rng.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

ModelPlan plan_of(const BenchmarkShape& shape) {
  ModelPlan plan;
  plan.compute = shape.compute;
  return plan;
}

}  // namespace

BenchmarkCeiling measure_ceiling(const BenchmarkShape& shape) {
  if (shape.device.is_cuda()) {
    Stream stream(shape.device);
    const GpuCeiling gpu = measure_gpu_ceiling(stream);
    const double tflops = shape.compute == DType::kBF16 ? gpu.bf16_tflops : gpu.fp32_tflops;
    return {gpu_properties(shape.device.index).name, tflops * 1e12, gpu.copy_tb_per_s * 1e12};
  }
  const MachineCeiling cpu = measure_machine_ceiling();
  return {inspect_machine().cpu_model, cpu.all_gflops * 1e9, cpu.all_copy_gb_per_s * 1e9};
}

BenchmarkRow make_benchmark_row(const BenchmarkShape& shape, const BenchmarkCeiling& ceiling,
                                std::string name, BenchmarkWork kind, double work,
                                const BenchmarkTiming& timing) {
  const double unit = shape.device.is_cuda() ? 1e-12 : 1e-9;
  const bool flops = kind == BenchmarkWork::kFlops;
  BenchmarkRow row;
  row.name = std::move(name);
  row.unit = fmt::format("{}{}", shape.device.is_cuda() ? "T" : "G", flops ? "FLOP/s" : "B/s");
  row.median = work / timing.median_seconds * unit;
  row.best = work / timing.best_seconds * unit;
  row.ceiling = (flops ? ceiling.flops_per_s : ceiling.bytes_per_s) * unit;
  row.microseconds = timing.median_seconds * 1e6;
  return row;
}

double product_flops(const LayerShape& layer, int64_t tokens) {
  return 2.0 * static_cast<double>(layer.out) * static_cast<double>(layer.in) *
         static_cast<double>(tokens);
}

Workbench::Workbench(const BenchmarkShape& shape, const BenchmarkCeiling& ceiling)
    : shape_(shape),
      ceiling_(ceiling),
      arena_(shape.device),
      stream_(shape.device),
      alone_(make_single_communicator()),
      context_(arena_, stream_, *alone_, plan_of(shape), /*training=*/true, /*step=*/0) {
  context_.tokens = tokens();
}

void Workbench::fill_random(const Tensor& x) {
  const Rng rng(1, "benchmark", ++draws_);
  if (x.is_contiguous()) return fill_normal(x, 0.0f, 1.0f, rng, stream_);
  const auto scope = arena_.scope("staging");
  const Tensor packed = arena_.allocate("staging", x.dtype(), x.shape());
  fill_normal(packed, 0.0f, 1.0f, rng, stream_);
  copy(x, packed, stream_);
}

Tensor Workbench::random(DType dtype, const Shape& shape) {
  const Tensor out = arena_.allocate("workspace", dtype, shape);
  fill_random(out);
  return out;
}

Columns Workbench::random_columns(std::span<const int64_t> widths, int64_t tail) {
  Columns out = context_.allocate_columns(/*kept=*/false, widths, tail);
  for (const Tensor& part : out.parts) fill_random(part);
  if (out.tail.defined()) fill_random(out.tail);
  return out;
}

QuantizedTensor Workbench::random_nf4(const Shape& shape) {
  QuantizedTensor out = allocate_nf4(MatrixSlice::all(shape), /*double_quant=*/true, shape_.compute,
                                     arena_, "workspace");
  fill_random_nf4(out, Rng(1, "benchmark", ++draws_), stream_);
  return out;
}

Weight Workbench::random_weight(const Shape& shape) {
  if (shape_.quantize_nf4) return random_nf4(shape);
  return random(shape);
}

Tensor Workbench::document_offsets() {
  std::vector<int32_t> offsets;
  for (int64_t d = 0; d <= shape_.batch; ++d) {
    offsets.push_back(static_cast<int32_t>(d * shape_.tokens));
  }
  const Tensor out = arena_.allocate("workspace", DType::kI32, {shape_.batch + 1});
  upload(out, offsets.data(), stream_);
  return out;
}

BenchmarkRow& Workbench::add(std::string name, BenchmarkWork kind, double work,
                             const std::function<void()>& call) {
  const BenchmarkTiming timing = time_on_all_ranks(*alone_, stream_, shape_.seconds, call);
  rows_.push_back(make_benchmark_row(shape_, ceiling_, std::move(name), kind, work, timing));
  return rows_.back();
}

LowRankOperands::LowRankOperands(Workbench& bench, int64_t in, const std::vector<int64_t>& outs,
                                 int64_t rank)
    : bench_(&bench) {
  const auto count = static_cast<int64_t>(outs.size());
  const int64_t ranks = padded_rank(rank * count);
  x_ = bench.random_columns(std::array{in}, ranks);
  ys_ = bench.random_columns(outs, 0);
  dys_ = bench.random_columns(outs, ranks);
  dx_ = bench.random({bench.tokens(), in});
  if (count == 1) addend_ = bench.random({bench.tokens(), outs[0]});
  const auto columns_of = [&](const Columns& behind, int64_t index) {
    if (rank == 0) return Tensor{};
    return behind.tail.defined() ? behind.tail.columns(index * rank, (index + 1) * rank)
                                 : bench.random({bench.tokens(), rank});
  };
  const auto matrix = [&](int64_t rows, int64_t columns) {
    return rank == 0 ? Tensor{} : bench.random(DType::kF32, {rows, columns});
  };
  for (int64_t out : outs) weights_.push_back(bench.random_weight({out, in}));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t out = outs[static_cast<size_t>(i)];
    downs_.push_back(columns_of(x_, i));
    ddowns_.push_back(columns_of(dys_, i));
    gradients_.push_back({matrix(rank, in), matrix(out, rank), {}});
    layers_.push_back(
        {&weights_[static_cast<size_t>(i)], matrix(rank, in), matrix(out, rank), 2.0f, {}});
  }
}

void LowRankOperands::forward() {
  low_rank_linear(ys_.parts, downs_, x_.parts[0], layers_, addend_, bench_->stream());
}

void LowRankOperands::backward_input() {
  low_rank_linear_backward_input(dx_, ddowns_, dys_.parts, layers_, 0.0f, bench_->stream());
}

void LowRankOperands::backward_weight() {
  low_rank_linear_backward_weight(gradients_, ddowns_, dys_.parts, downs_, x_.parts[0], layers_,
                                  bench_->stream());
}

double LowRankOperands::flops() const {
  const int64_t tokens = bench_->tokens();
  return std::accumulate(
      layers_.begin(), layers_.end(), 0.0, [tokens](double sum, const LowRankLinear& layer) {
        return sum + product_flops({"", layer.out(), layer.in()}, tokens) +
               product_flops({"", layer.out() + layer.in(), layer.rank()}, tokens);
      });
}

double LowRankOperands::gradient_bytes() const {
  int64_t columns = layers_[0].in();
  for (const LowRankLinear& layer : layers_) columns += layer.out() + 2 * layer.rank();
  return static_cast<double>(columns * bench_->tokens()) * bench_->element_bytes();
}

AttentionOperands::AttentionOperands(Workbench& bench) : bench_(&bench) {
  const ModelConfig& model = bench.shape().model;
  const int64_t heads = model.num_attention_heads;
  const int64_t groups = model.num_key_value_heads;
  const std::array widths = {heads * model.head_dim, groups * model.head_dim,
                             groups * model.head_dim};
  const auto split = [&](const Tensor& flat, int64_t count) {
    return flat.reshaped({bench.tokens(), count, model.head_dim});
  };
  const Columns qkv = bench.random_columns(widths, 0);
  const Columns dqkv = bench.random_columns(widths, 0);
  q_ = split(qkv.parts[0], heads), dq_ = split(dqkv.parts[0], heads);
  k_ = split(qkv.parts[1], groups), dk_ = split(dqkv.parts[1], groups);
  v_ = split(qkv.parts[2], groups), dv_ = split(dqkv.parts[2], groups);
  y_ = bench.random(q_.shape()), dy_ = bench.random(q_.shape());
  log_sum_exp_ = bench.random(DType::kF32, {heads, bench.tokens()});
  offsets_ = bench.document_offsets();
}

namespace {

AttentionParams attention_params(const BenchmarkShape& shape) {
  return {.scale = 1.0f / std::sqrt(static_cast<float>(shape.model.head_dim)),
          .window = shape.model.sliding_window,
          .longest_query = shape.tokens,
          .longest_key = shape.tokens};
}

}  // namespace

void AttentionOperands::forward() {
  attention(y_, log_sum_exp_, q_, k_, v_, offsets_, offsets_, attention_params(bench_->shape()),
            bench_->stream());
}

void AttentionOperands::backward() {
  attention_backward(dq_, dk_, dv_, dy_, q_, k_, v_, y_, log_sum_exp_, offsets_, offsets_,
                     attention_params(bench_->shape()), bench_->stream());
}

double AttentionOperands::forward_flops() const {
  const BenchmarkShape& shape = bench_->shape();
  const int64_t window = shape.model.sliding_window;
  const int64_t seen = window > 0 ? std::min(window, shape.tokens) : shape.tokens;
  const double pairs = static_cast<double>(shape.batch) *
                       (0.5 * static_cast<double>(seen) * static_cast<double>(seen + 1) +
                        static_cast<double>(seen) * static_cast<double>(shape.tokens - seen));
  return 4.0 * pairs * static_cast<double>(shape.model.num_attention_heads * shape.model.head_dim);
}

}  // namespace rankwise
