// SPDX-License-Identifier: Apache-2.0
// AdamW over a small adapter and over a buffer larger than the caches.
#include <algorithm>
#include <array>

#include "kernels/adamw.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/random_tensor.h"

namespace rankwise {
namespace {

void adamw_update(benchmark::State& state) {
  Arena arena;
  Stream stream;
  const Shape shape{state.range(0)};
  const Tensor p = bench::random_tensor(arena, shape);
  const Tensor m = bench::random_tensor(arena, shape);
  const Tensor v = arena.allocate("bench", DType::kF32, shape);
  std::fill_n(v.data<float>(), v.numel(), 1e-3f);
  const Tensor g = bench::random_tensor(arena, shape);
  const std::array tensors{AdamWTensors{p, m, v, g}};
  for (auto _ : state) adamw(tensors, 1.0f, {.weight_decay = 0.01}, stream);
  bench::count_bytes(state, 7.0 * static_cast<double>(p.bytes()));  // reads 4, writes 3
}
BENCHMARK(adamw_update)->Arg(1 << 16)->Arg(1 << 24);

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) { return rankwise::bench::run(argc, argv); }
