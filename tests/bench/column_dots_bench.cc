// SPDX-License-Identifier: Apache-2.0
// Sums over tokens of outputs with their gradients, at T 512 and width 256, and T 2048 and 4096.
#include "kernels/column_dots.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/random_tensor.h"

namespace rankwise {
namespace {

void column_dots(benchmark::State& state) {
  Arena arena;
  Stream stream;
  const Tensor dy = bench::random_tensor(arena, {state.range(0), state.range(1)});
  const Tensor y = bench::random_tensor(arena, dy.shape());
  const bool less = state.range(2) != 0;
  const Tensor minus = less ? bench::random_tensor(arena, dy.shape()) : Tensor{};
  const ColumnDots to{bench::random_tensor(arena, {dy.dim(1)})};
  for (auto _ : state) column_dots(to, dy, y, minus, stream);
  bench::count_bytes(state, (less ? 3.0 : 2.0) * static_cast<double>(dy.bytes()));  // reads
}
BENCHMARK(column_dots)->ArgsProduct({{512}, {256}, {0, 1}})->ArgsProduct({{2048}, {4096}, {0, 1}});

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) { return rankwise::bench::run(argc, argv); }
