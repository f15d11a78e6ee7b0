// SPDX-License-Identifier: Apache-2.0
// Rotary embedding at T 512, hidden 256 (8 heads of 32, 4 of 64), a quarter of them for k, and its
// tables.
#include "kernels/rope.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/random_tensor.h"

namespace rankwise {
namespace {

struct Call {
  explicit Call(const benchmark::State& state)
      : q(bench::random_tensor(arena, {512, state.range(0), state.range(1)})),
        k(bench::random_tensor(arena, {512, state.range(0) / 4, state.range(1)})),
        cos(bench::random_tensor(arena, {512, state.range(1) / 2})),
        sin(bench::random_tensor(arena, cos.shape())) {}
  double bytes() const { return static_cast<double>(q.bytes() + k.bytes()); }
  Arena arena;
  Stream stream;
  Tensor q, k, cos, sin;
};

void rope_rotate(benchmark::State& state) {
  Call c(state);
  for (auto _ : state) rope(c.q, c.k, c.cos, c.sin, c.stream);
  bench::count_bytes(state, 2.0 * c.bytes());  // reads and writes
}
BENCHMARK(rope_rotate)->Args({8, 32})->Args({4, 64})->Args({64, 128});

void rope_backward_with_dots(benchmark::State& state) {
  Call c(state);
  const Tensor dq = bench::random_tensor(c.arena, c.q.shape());
  const Tensor dk = bench::random_tensor(c.arena, c.k.shape());
  const ColumnDots q_dots{bench::random_tensor(c.arena, {c.q.dim(1) * c.q.dim(2)})};
  const ColumnDots k_dots{bench::random_tensor(c.arena, {c.k.dim(1) * c.k.dim(2)})};
  const RopeForward forward{c.q, c.k, q_dots, k_dots};
  for (auto _ : state) rope_backward(dq, dk, c.cos, c.sin, forward, c.stream);
  bench::count_bytes(state, 3.0 * c.bytes());
}
BENCHMARK(rope_backward_with_dots)->Args({8, 32})->Args({4, 64})->Args({64, 128});

void rope_build_tables(benchmark::State& state) {
  Arena arena;
  Stream stream;
  const Tensor positions = arena.allocate("bench", DType::kI32, {512});
  for (int32_t t = 0; t < 512; ++t) positions.data<int32_t>()[t] = t;
  const Tensor inv_freq = bench::random_tensor(arena, {32});
  const Tensor cos = bench::random_tensor(arena, {512, 32});
  const Tensor sin = bench::random_tensor(arena, {512, 32});
  for (auto _ : state) rope_tables(cos, sin, positions, inv_freq, stream);
}
BENCHMARK(rope_build_tables);

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) { return rankwise::bench::run(argc, argv); }
