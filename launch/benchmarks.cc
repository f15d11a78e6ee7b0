// SPDX-License-Identifier: Apache-2.0
#include "launch/benchmarks.h"

#include <algorithm>

#include "kernels/matmul.h"
#include "kernels/quantize.h"
#include "launch/benchmarks_workbench.h"

namespace rankwise {
namespace {

// Copies of a weight that are read in turn, as a step reads the layers: none is still in cache.
constexpr double kColdBytes = 256e6;
constexpr double kMostCopies = 32.0;

std::vector<LayerShape> layers_of(const BenchmarkShape& shape) {
  const ModelConfig& model = shape.model;
  return {{"q_proj", shape.query_width(), model.hidden_size},
          {"k_proj", shape.key_width(), model.hidden_size},
          {"o_proj", model.hidden_size, shape.query_width()},
          {"gate_proj", model.intermediate_size, model.hidden_size},
          {"down_proj", model.hidden_size, model.intermediate_size},
          {"lm_head", model.vocab_size, model.hidden_size}};
}

std::string product_name(const LayerShape& layer, int64_t tokens) {
  return fmt::format("{} ({}x{}x{})", layer.name, tokens, layer.out, layer.in);
}

void add_low_rank_group(Workbench& bench, const std::string& name, int64_t in,
                        const std::vector<int64_t>& outs, int64_t rank) {
  const auto scope = bench.scope();
  LowRankOperands operands(bench, in, outs, rank);
  const std::string title = rank > 0 ? fmt::format("{} + LoRA {}", name, rank) : name;
  bench.add(title + " y", BenchmarkWork::kFlops, operands.flops(), [&] { operands.forward(); });
  bench.add(title + " dx", BenchmarkWork::kFlops, operands.flops(),
            [&] { operands.backward_input(); });
  if (rank == 0) return;
  bench.add(title + " dA dB", BenchmarkWork::kBytes, operands.gradient_bytes(),
            [&] { operands.backward_weight(); });
}

void add_dequantize(Workbench& bench, const LayerShape& layer) {
  const auto scope = bench.scope();
  const Tensor dense = bench.random({layer.out, layer.in});
  std::vector<QuantizedTensor> weights = {bench.random_nf4({layer.out, layer.in})};
  const auto stored = static_cast<double>(weights[0].bytes());
  const auto copies = static_cast<size_t>(std::clamp(kColdBytes / stored, 1.0, kMostCopies));
  while (weights.size() < copies) weights.push_back(bench.random_nf4({layer.out, layer.in}));
  size_t next = 0;
  bench.add(fmt::format("dequantize {} ({}x{})", layer.name, layer.out, layer.in),
            BenchmarkWork::kBytes, stored + static_cast<double>(dense.bytes()),
            [&] { dequantize(dense, weights[next++ % weights.size()], bench.stream()); });
}

}  // namespace

std::vector<BenchmarkRow> benchmark_matmul(const BenchmarkShape& shape,
                                           const BenchmarkCeiling& ceiling) {
  Workbench bench(shape, ceiling);
  Stream& stream = bench.stream();
  const int64_t tokens = bench.tokens();
  for (const LayerShape& layer : layers_of(shape)) {
    const auto scope = bench.scope();
    const Tensor x = bench.random({tokens, layer.in});
    const Tensor y = bench.random({tokens, layer.out});
    const Weight weight = bench.random({layer.out, layer.in});
    const Tensor dw = bench.random(DType::kF32, {layer.out, layer.in});
    const double flops = product_flops(layer, tokens);
    const std::string name = product_name(layer, tokens);
    const auto add = [&](const char* what, const std::function<void()>& call) {
      bench.add(name + what, BenchmarkWork::kFlops, flops, call);
    };
    add(" y", [&] { linear(y, x, weight, 0.0f, stream); });
    add(" dx", [&] { linear_backward_input(x, y, weight, 0.0f, stream); });
    add(" dw", [&] { linear_backward_weight(dw, y, x, stream); });
  }
  const auto scope = bench.scope();
  const LayerShape a = {"lora_A", shape.lora_rank, shape.model.hidden_size};
  const LayerShape b = {"lora_B", shape.model.hidden_size, shape.lora_rank};
  const Tensor x = bench.random({tokens, a.in});
  const Tensor z = bench.random({tokens, a.out});
  const Weight weight_a = bench.random({a.out, a.in});
  const Weight weight_b = bench.random({b.out, b.in});
  bench.add(product_name(a, tokens) + " y", BenchmarkWork::kFlops, product_flops(a, tokens),
            [&] { linear(z, x, weight_a, 0.0f, stream); });
  bench.add(product_name(b, tokens) + " y", BenchmarkWork::kFlops, product_flops(b, tokens),
            [&] { linear(x, z, weight_b, 1.0f, stream); });
  return bench.take_rows();
}

std::vector<BenchmarkRow> benchmark_nf4(const BenchmarkShape& asked,
                                        const BenchmarkCeiling& ceiling) {
  BenchmarkShape shape = asked;
  shape.quantize_nf4 = true;
  Workbench bench(shape, ceiling);
  const ModelConfig& model = shape.model;
  const int64_t query = shape.query_width(), key = shape.key_width();
  {
    const auto scope = bench.scope();
    const Tensor dense = bench.random(DType::kF32, {model.intermediate_size, model.hidden_size});
    QuantizedTensor quantized = bench.random_nf4(dense.shape());
    bench.add(fmt::format("quantize gate_proj ({}x{})", dense.dim(0), dense.dim(1)),
              BenchmarkWork::kBytes, static_cast<double>(dense.bytes() + quantized.bytes()),
              [&] { quantize_nf4(quantized, dense, bench.stream()); });
  }
  add_dequantize(bench, {"q_proj", query, model.hidden_size});
  add_dequantize(bench, {"gate_proj", model.intermediate_size, model.hidden_size});
  const std::string tokens = std::to_string(bench.tokens());
  for (int64_t rank : {int64_t{0}, shape.lora_rank}) {
    add_low_rank_group(bench, "nf4 qkv T " + tokens, model.hidden_size, {query, key, key}, rank);
    add_low_rank_group(bench, "nf4 gate+up T " + tokens, model.hidden_size,
                       {model.intermediate_size, model.intermediate_size}, rank);
    add_low_rank_group(bench, "nf4 down T " + tokens, model.intermediate_size, {model.hidden_size},
                       rank);
  }
  return bench.take_rows();
}

std::vector<BenchmarkRow> benchmark_attention(const BenchmarkShape& shape,
                                              const BenchmarkCeiling& ceiling) {
  Workbench bench(shape, ceiling);
  AttentionOperands operands(bench);
  const double flops = operands.forward_flops();
  const std::string name = fmt::format("attention (B {}, S {}, H {}, G {}, D {})", shape.batch,
                                       shape.tokens, shape.model.num_attention_heads,
                                       shape.model.num_key_value_heads, shape.model.head_dim);
  bench.add(name + " forward", BenchmarkWork::kFlops, flops, [&] { operands.forward(); });
  bench.add(name + " backward", BenchmarkWork::kFlops, 2.0 * flops, [&] { operands.backward(); });
  return bench.take_rows();
}

}  // namespace rankwise
