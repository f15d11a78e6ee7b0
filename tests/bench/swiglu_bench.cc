// SPDX-License-Identifier: Apache-2.0
// SwiGLU at T 512, ffn 688.
#include "kernels/swiglu.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/random_tensor.h"

namespace rankwise {
namespace {

struct Call {
  explicit Call(const benchmark::State& state)
      : gate(bench::random_tensor(arena, {state.range(0), state.range(1)})),
        up(bench::random_tensor(arena, gate.shape())),
        y(bench::random_tensor(arena, gate.shape())),
        dgate(bench::random_tensor(arena, gate.shape())),
        dup(bench::random_tensor(arena, gate.shape())) {}
  Arena arena;
  Stream stream;
  Tensor gate, up, y, dgate, dup;
};

void swiglu_forward(benchmark::State& state) {
  Call c(state);
  for (auto _ : state) swiglu(c.y, c.gate, c.up, c.stream);
  bench::count_bytes(state, 3.0 * static_cast<double>(c.y.bytes()));  // reads 2, writes 1
}
BENCHMARK(swiglu_forward)->Args({512, 688})->Args({2048, 11008});

void swiglu_backward(benchmark::State& state) {
  Call c(state);
  for (auto _ : state) swiglu_backward({c.dgate, c.dup}, c.y, c.gate, c.up, c.stream);
  bench::count_bytes(state, 5.0 * static_cast<double>(c.y.bytes()));  // reads 3, writes 2
}
BENCHMARK(swiglu_backward)->Args({512, 688})->Args({2048, 11008});

void swiglu_backward_with_dots(benchmark::State& state) {
  Call c(state);
  const ColumnDots gate_dots{bench::random_tensor(c.arena, {c.gate.dim(1)})};
  const ColumnDots up_dots{bench::random_tensor(c.arena, {c.gate.dim(1)})};
  const SwigluGradients to{c.dgate, c.dup, {}, gate_dots, up_dots};
  for (auto _ : state) swiglu_backward(to, c.y, c.gate, c.up, c.stream);
  bench::count_bytes(state, 5.0 * static_cast<double>(c.y.bytes()));
}
BENCHMARK(swiglu_backward_with_dots)->Args({512, 688})->Args({2048, 11008});

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) { return rankwise::bench::run(argc, argv); }
