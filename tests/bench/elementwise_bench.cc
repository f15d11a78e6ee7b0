// SPDX-License-Identifier: Apache-2.0
// Element-wise operations at T 512, hidden 256.
#include <array>

#include "kernels/elementwise.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/random_tensor.h"

namespace rankwise {
namespace {

struct Call {
  Arena arena;
  Stream stream;
  Tensor x = bench::random_tensor(arena, {512, 256});
  Tensor y = bench::random_tensor(arena, {512, 256});
  Tensor bias = bench::random_tensor(arena, {256});
};

double bytes(const Call& c, double passes) { return passes * static_cast<double>(c.x.bytes()); }

void elementwise_copy(benchmark::State& state) {
  Call c;
  for (auto _ : state) copy(c.y, c.x, c.stream);
  bench::count_bytes(state, bytes(c, 2.0));
}
BENCHMARK(elementwise_copy);

void elementwise_add(benchmark::State& state) {
  Call c;
  for (auto _ : state) add(c.y, c.x, c.stream);
  bench::count_bytes(state, bytes(c, 3.0));
}
BENCHMARK(elementwise_add);

void elementwise_add_bias(benchmark::State& state) {
  Call c;
  for (auto _ : state) add_bias(c.y, c.bias, c.stream);
  bench::count_bytes(state, bytes(c, 2.0));
}
BENCHMARK(elementwise_add_bias);

void elementwise_bias_backward(benchmark::State& state) {
  Call c;
  for (auto _ : state) bias_backward(c.bias, c.y, c.stream);
  bench::count_bytes(state, bytes(c, 1.0));
}
BENCHMARK(elementwise_bias_backward);

void elementwise_sum_of_squares(benchmark::State& state) {
  Call c;
  const Tensor sum = c.arena.allocate("bench", DType::kF64, {1});
  const std::array list{c.x};
  for (auto _ : state) sum_of_squares(sum, list, c.stream);
  bench::count_bytes(state, bytes(c, 1.0));
}
BENCHMARK(elementwise_sum_of_squares);

void elementwise_dropout(benchmark::State& state) {
  Call c;
  const Rng rng(1, "dropout");
  for (auto _ : state) dropout(c.y, c.x, 0.1f, rng, {0, 256}, c.stream);
  bench::count_bytes(state, bytes(c, 2.0));
}
BENCHMARK(elementwise_dropout);

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) { return rankwise::bench::run(argc, argv); }
