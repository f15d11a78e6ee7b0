// SPDX-License-Identifier: Apache-2.0
// Rotary embedding at T 512, hidden 256 (8 heads of 32, 4 of 64), a quarter of them for k, and its
// tables.
#include "kernels/rope.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/random_tensor.h"

namespace rankwise {
namespace {

void rope_rotate(benchmark::State& state) {
  Arena arena;
  Stream stream;
  const int64_t tokens = 512;
  const Tensor q = bench::random_tensor(arena, {tokens, state.range(0), state.range(1)});
  const Tensor k = bench::random_tensor(arena, {tokens, state.range(0) / 4, state.range(1)});
  const Tensor cos = bench::random_tensor(arena, {tokens, state.range(1) / 2});
  const Tensor sin = bench::random_tensor(arena, {tokens, state.range(1) / 2});
  for (auto _ : state) rope(q, k, cos, sin, false, stream);
  bench::count_bytes(state, 2.0 * static_cast<double>(q.bytes() + k.bytes()));  // reads and writes
}
BENCHMARK(rope_rotate)->Args({8, 32})->Args({4, 64})->Args({64, 128});

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
