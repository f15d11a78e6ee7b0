// SPDX-License-Identifier: Apache-2.0
#include "launch/benchmarks.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>

#include "kernels/attention.h"
#include "kernels/machine_ceiling.h"
#include "kernels/matmul.h"
#include "kernels/quantize.h"
#include "launch/trainer.h"
#include "model/hf_folder.h"
#include "runtime/rng.h"

namespace rankwise {
namespace {

using Clock = std::chrono::steady_clock;

// Random operands of one benchmark, freed with it.
class Operands {
 public:
  Tensor random(const Shape& shape) {
    const Tensor tensor = arena_.allocate("operands", DType::kF32, shape);
    Rng(1, "benchmark", ++count_)
        .fill_normal({tensor.data<float>(), static_cast<size_t>(tensor.numel())}, 0.0f, 1.0f);
    return tensor;
  }
  Tensor offsets(int64_t tokens) {
    const Tensor tensor = arena_.allocate("operands", DType::kI32, {2});
    tensor.data<int32_t>()[0] = 0;
    tensor.data<int32_t>()[1] = static_cast<int32_t>(tokens);
    return tensor;
  }
  Arena& arena() { return arena_; }
  Stream& stream() { return stream_; }

 private:
  Arena arena_;
  Stream stream_;
  uint64_t count_ = 0;
};

struct Timing {
  double median_seconds = 0.0;
  double best_seconds = 0.0;
};

Timing measure(double seconds, const std::function<void()>& call) {
  for (int warm_up = 0; warm_up < 3; ++warm_up) call();
  std::vector<double> times;
  const auto begin = Clock::now();
  do {
    const auto call_begin = Clock::now();
    call();
    const auto now = Clock::now();
    times.push_back(std::chrono::duration<double>(now - call_begin).count());
  } while (times.size() < 5 || Clock::now() - begin < std::chrono::duration<double>(seconds));
  std::ranges::sort(times);
  return {times[times.size() / 2], times.front()};
}

// `work`: FLOPs or bytes of one call; `ceiling`: per second, in units of 1e9.
BenchmarkRow make_row(std::string name, std::string unit, double work, double ceiling,
                      const Timing& timing) {
  BenchmarkRow row;
  row.name = std::move(name);
  row.unit = std::move(unit);
  row.median = work / timing.median_seconds * 1e-9;
  row.best = work / timing.best_seconds * 1e-9;
  row.ceiling = ceiling;
  row.microseconds = timing.median_seconds * 1e6;
  return row;
}

struct LayerShape {
  const char* name;
  int64_t out;
  int64_t in;
};

std::vector<LayerShape> layers_of(const ModelConfig& model) {
  const int64_t query = model.num_attention_heads * model.head_dim;
  const int64_t key = model.num_key_value_heads * model.head_dim;
  return {{"q_proj", query, model.hidden_size},
          {"k_proj", key, model.hidden_size},
          {"o_proj", model.hidden_size, query},
          {"gate_proj", model.intermediate_size, model.hidden_size},
          {"down_proj", model.hidden_size, model.intermediate_size},
          {"lm_head", model.vocab_size, model.hidden_size}};
}

double flops_of(const LayerShape& layer, int64_t tokens) {
  return 2.0 * static_cast<double>(layer.out) * static_cast<double>(layer.in) *
         static_cast<double>(tokens);
}

}  // namespace

std::vector<BenchmarkRow> benchmark_matmul(const BenchmarkShape& shape) {
  const double ceiling = measure_multiply_add_gflops();
  std::vector<BenchmarkRow> rows;
  const auto add = [&](const std::string& name, double flops, const std::function<void()>& call) {
    rows.push_back(make_row(name, "GFLOP/s", flops, ceiling, measure(shape.seconds, call)));
  };
  for (const LayerShape& layer : layers_of(shape.model)) {
    Operands operands;
    const Tensor x = operands.random({shape.tokens, layer.in});
    const Tensor y = operands.random({shape.tokens, layer.out});
    const Tensor dense = operands.random({layer.out, layer.in});
    const Weight weight = dense;
    const double flops = flops_of(layer, shape.tokens);
    const std::string name =
        fmt::format("{} ({}x{}x{})", layer.name, shape.tokens, layer.out, layer.in);
    Stream& stream = operands.stream();
    add(name + " y", flops, [&] { linear(y, x, weight, 0.0f, stream); });
    add(name + " dx", flops, [&] { linear_backward_input(x, y, weight, 0.0f, stream); });
    add(name + " dw", flops, [&] { linear_backward_weight(dense, y, x, stream); });
  }
  const LayerShape adapter = {"lora_A", shape.lora_rank, shape.model.hidden_size};
  Operands operands;
  const Tensor x = operands.random({shape.tokens, adapter.in});
  const Tensor z = operands.random({shape.tokens, adapter.out});
  const Tensor a = operands.random({adapter.out, adapter.in});
  add(fmt::format("lora_A ({}x{}x{}) y", shape.tokens, adapter.out, adapter.in),
      flops_of(adapter, shape.tokens), [&] { linear(z, x, Weight(a), 0.0f, operands.stream()); });
  const Tensor b = operands.random({adapter.in, adapter.out});
  add(fmt::format("lora_B ({}x{}x{}) y", shape.tokens, adapter.in, adapter.out),
      flops_of(adapter, shape.tokens), [&] { linear(x, z, Weight(b), 1.0f, operands.stream()); });
  return rows;
}

std::vector<BenchmarkRow> benchmark_nf4(const BenchmarkShape& shape) {
  const MachineCeiling ceiling = measure_machine_ceiling();
  Operands operands;
  Stream& stream = operands.stream();
  const int64_t out = shape.model.intermediate_size;
  const int64_t in = shape.model.hidden_size;
  const Tensor dense = operands.random({out, in});
  QuantizedTensor quantized =
      allocate_nf4({out, in}, /*double_quant=*/true, DType::kF32, operands.arena(), "operands");
  quantize_nf4(quantized, dense, stream);
  const double bytes = static_cast<double>(dense.bytes() + quantized.bytes());
  std::vector<BenchmarkRow> rows;
  const auto add = [&](std::string name, std::string unit, double work, double limit,
                       const std::function<void()>& call) {
    rows.push_back(
        make_row(std::move(name), std::move(unit), work, limit, measure(shape.seconds, call)));
  };
  const std::string matrix = fmt::format("({}x{})", out, in);
  add("quantize " + matrix, "GB/s", bytes, ceiling.all_copy_gb_per_s,
      [&] { quantize_nf4(quantized, dense, stream); });
  add("dequantize " + matrix, "GB/s", bytes, ceiling.all_copy_gb_per_s,
      [&] { dequantize(dense, quantized, stream); });
  const Tensor x = operands.random({shape.tokens, in});
  const Tensor y = operands.random({shape.tokens, out});
  const double flops = flops_of({"", out, in}, shape.tokens);
  const Weight weight = quantized;
  const std::string product = fmt::format("nf4 ({}x{}x{})", shape.tokens, out, in);
  add(product + " y", "GFLOP/s", flops, ceiling.all_gflops,
      [&] { linear(y, x, weight, 0.0f, stream); });
  add(product + " dx", "GFLOP/s", flops, ceiling.all_gflops,
      [&] { linear_backward_input(x, y, weight, 0.0f, stream); });
  return rows;
}

std::vector<BenchmarkRow> benchmark_attention(const BenchmarkShape& shape) {
  const double ceiling = measure_multiply_add_gflops();
  const ModelConfig& model = shape.model;
  const int64_t tokens = shape.tokens;
  Operands operands;
  Stream& stream = operands.stream();
  const Shape query_shape = {tokens, model.num_attention_heads, model.head_dim};
  const Shape key_shape = {tokens, model.num_key_value_heads, model.head_dim};
  const Tensor q = operands.random(query_shape), k = operands.random(key_shape);
  const Tensor v = operands.random(key_shape), y = operands.random(query_shape);
  const Tensor dq = operands.random(query_shape), dk = operands.random(key_shape);
  const Tensor dv = operands.random(key_shape), dy = operands.random(query_shape);
  const Tensor log_sum_exp = operands.random({model.num_attention_heads, tokens});
  const Tensor offsets = operands.offsets(tokens);
  AttentionParams params;
  params.scale = 1.0f / std::sqrt(static_cast<float>(model.head_dim));
  params.longest_query = params.longest_key = tokens;
  const double pairs = 0.5 * static_cast<double>(tokens) * static_cast<double>(tokens + 1);
  const double flops =
      4.0 * pairs * static_cast<double>(model.num_attention_heads * model.head_dim);
  const auto forward = [&] {
    attention(y, log_sum_exp, q, k, v, offsets, offsets, params, stream);
  };
  const auto backward = [&] {
    attention_backward(dq, dk, dv, dy, q, k, v, y, log_sum_exp, offsets, offsets, params, stream);
  };
  const std::string name =
      fmt::format("attention (T {}, H {}, G {}, D {})", tokens, model.num_attention_heads,
                  model.num_key_value_heads, model.head_dim);
  return {make_row(name + " forward", "GFLOP/s", flops, ceiling, measure(shape.seconds, forward)),
          make_row(name + " backward", "GFLOP/s", 2.0 * flops, ceiling,
                   measure(shape.seconds, backward))};
}

std::vector<BenchmarkRow> benchmark_step(const BenchmarkShape& shape) {
  const double ceiling = measure_multiply_add_gflops();
  TrainConfig config;
  config.model.quant = shape.quantize_nf4 ? BaseQuantization::kNf4 : BaseQuantization::kNone;
  config.adapt[0].rank = shape.lora_rank;
  const ModelFiles files = {"", shape.model, make_random_weights(shape.model, 1)};
  const Adaptation adaptation(config, files.config);
  const auto alone = make_single_communicator();
  const DeviceMesh mesh(*alone, 1);
  Arena arena;
  Stream stream;
  Trainer trainer(config, files, adaptation, mesh, arena, stream, /*total_steps=*/1'000'000);

  Sample sample;
  const Rng rng(1, "benchmark tokens");
  for (int64_t t = 0; t < shape.tokens; ++t) {
    sample.input_ids.push_back(static_cast<int32_t>(
        rng.below(static_cast<uint64_t>(t), static_cast<uint64_t>(shape.model.vocab_size))));
  }
  sample.labels = sample.input_ids;
  std::vector<MicroBatch> batches(1);
  append_document(batches[0], sample);

  int64_t step = 0;
  double flops = 0.0;
  const Timing timing =
      measure(shape.seconds, [&] { flops = trainer.train_step(step++, batches).flops; });
  const std::string name = fmt::format(
      "step ({} base, LoRA rank {}, T {}, {:.0f} tokens/s)", shape.quantize_nf4 ? "nf4" : "fp32",
      shape.lora_rank, shape.tokens, static_cast<double>(shape.tokens) / timing.median_seconds);
  return {make_row(name, "GFLOP/s", flops, ceiling, timing)};
}

}  // namespace rankwise
