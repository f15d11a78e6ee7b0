// SPDX-License-Identifier: Apache-2.0
// NF4: quantisation, decoding, and products with a 4-bit weight beside the same dense product.
#include <string>
#include <vector>

#include "kernels/matmul.h"
#include "kernels/quantize.h"
#include "runtime/rng.h"
#include "tests/bench/ceiling.h"

namespace rankwise {
namespace {

// One layer's input, dense weight, 4-bit weight and output.
struct Layer {
  Layer(int64_t tokens, int64_t out, int64_t in) {
    w = arena.allocate("bench", DType::kF32, {out, in});
    x = arena.allocate("bench", DType::kF32, {tokens, in});
    y = arena.allocate("bench", DType::kF32, {tokens, out});
    fill(w, 1);
    fill(x, 2);
    fill(y, 3);
    q = allocate_nf4(MatrixSlice::all(w.shape()), true, DType::kF32, arena, "bench");
    quantize_nf4(q, w, stream);
  }

  static void fill(const Tensor& t, uint64_t seed) {
    Rng(seed, "bench").fill_normal({t.data<float>(), static_cast<size_t>(t.numel())}, 0.0f, 0.1f);
  }

  Arena arena;
  Stream stream;
  Tensor w, x, y;
  QuantizedTensor q;
};

void dequantize_whole(benchmark::State& state) {
  Layer layer(1, state.range(0), state.range(1));
  for (auto _ : state) dequantize(layer.w, layer.q, layer.stream);
  bench::count_bytes(state, static_cast<double>(layer.w.bytes() + layer.q.bytes()));
}

// As linear() does it: the decoded rows stay in cache.
void dequantize_tile(benchmark::State& state) {
  Layer layer(1, state.range(0), state.range(1));
  for (auto _ : state) dequantize_rows(layer.w.rows(0, 64), layer.q, 0, 64, layer.stream);
  const double share = 64.0 / static_cast<double>(state.range(0));
  bench::count_bytes(state, share * static_cast<double>(layer.w.bytes() + layer.q.bytes()));
}

void quantize(benchmark::State& state) {
  Layer layer(1, state.range(0), state.range(1));
  for (auto _ : state) quantize_nf4(layer.q, layer.w, layer.stream);
  bench::count_bytes(state, static_cast<double>(layer.w.bytes() + layer.q.bytes()));
}

enum class Pass { kForward, kBackwardInput };

template <Pass pass, bool quantized>
void product(benchmark::State& state) {
  Layer layer(state.range(0), state.range(1), state.range(2));
  const Weight weight = quantized ? Weight(layer.q) : Weight(layer.w);
  for (auto _ : state) {
    if constexpr (pass == Pass::kForward) {
      linear(layer.y, layer.x, weight, 0.0f, layer.stream);
    } else {
      linear_backward_input(layer.x, layer.y, weight, 0.0f, layer.stream);
    }
  }
  bench::count_flops(state, 2.0 * static_cast<double>(layer.x.numel() * layer.w.dim(0)));
}

void layer_shapes(benchmark::internal::Benchmark* benchmark) {  // tokens, out, in
  benchmark->Args({512, 256, 256})->Args({512, 688, 256})->Args({512, 256, 688});
  benchmark->Args({512, 4096, 256})->Args({512, 2048, 2048})->Args({1, 688, 256});
}

void matrix_shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Args({688, 256})->Args({4096, 4096});
}

BENCHMARK(quantize)->Apply(matrix_shapes);
BENCHMARK(dequantize_whole)->Apply(matrix_shapes);
BENCHMARK(dequantize_tile)->Apply(matrix_shapes);
BENCHMARK(product<Pass::kForward, false>)->Name("forward/dense")->Apply(layer_shapes);
BENCHMARK(product<Pass::kForward, true>)->Name("forward/nf4")->Apply(layer_shapes);
BENCHMARK(product<Pass::kBackwardInput, false>)->Name("backward_input/dense")->Apply(layer_shapes);
BENCHMARK(product<Pass::kBackwardInput, true>)->Name("backward_input/nf4")->Apply(layer_shapes);

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) { return rankwise::bench::run(argc, argv); }
