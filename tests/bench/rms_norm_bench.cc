// SPDX-License-Identifier: Apache-2.0
// RMSNorm at T 512, hidden 256 and at a hidden size past the second-level cache.
#include "kernels/rms_norm.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/random_tensor.h"

namespace rankwise {
namespace {

struct Call {
  explicit Call(const benchmark::State& state)
      : x(bench::random_tensor(arena, {state.range(0), state.range(1)})),
        y(bench::random_tensor(arena, x.shape())),
        dy(bench::random_tensor(arena, x.shape())),
        weight(bench::random_tensor(arena, {state.range(1)})),
        dweight(bench::random_tensor(arena, {state.range(1)})),
        inv_rms(bench::random_tensor(arena, {state.range(0)})) {}
  Arena arena;
  Stream stream;
  Tensor x, y, dy, weight, dweight, inv_rms;
};

void rms_norm_forward(benchmark::State& state) {
  Call c(state);
  for (auto _ : state) rms_norm(c.y, c.inv_rms, c.x, c.weight, 1e-5f, c.stream);
  bench::count_bytes(state, 2.0 * static_cast<double>(c.x.bytes()));  // reads x, writes y
}
BENCHMARK(rms_norm_forward)->Args({512, 256})->Args({2048, 4096});

void rms_norm_backward(benchmark::State& state) {
  Call c(state);
  for (auto _ : state) {
    rms_norm_backward(c.y, c.dweight, c.dy, c.x, c.weight, c.inv_rms, false, c.stream);
  }
  bench::count_bytes(state, 3.0 * static_cast<double>(c.x.bytes()));  // reads dy, x, writes dx
}
BENCHMARK(rms_norm_backward)->Args({512, 256})->Args({2048, 4096});

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) { return rankwise::bench::run(argc, argv); }
