// SPDX-License-Identifier: Apache-2.0
// AdamW, with fp32 and 8-bit moments, over a small adapter and over a buffer larger than the
// caches.
#include <algorithm>
#include <array>

#include "kernels/adamw8bit.h"
#include "kernels/elementwise.h"
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

void adamw8bit_update(benchmark::State& state) {
  Arena arena;
  Stream stream;
  const Shape shape{state.range(0)};
  const Shape blocks{adamw8bit_blocks(shape.numel())};
  const auto zeros = [&](DType dtype, const Shape& of) {
    const Tensor x = arena.allocate("bench", dtype, of);
    fill(x, 0.0f, stream);
    return x;
  };
  const AdamW8bitTensors t{bench::random_tensor(arena, shape), bench::random_tensor(arena, shape),
                           zeros(DType::kU8, shape),           zeros(DType::kF32, blocks),
                           zeros(DType::kU8, shape),           zeros(DType::kF32, blocks)};
  for (auto _ : state) adamw8bit(std::array{t}, 1.0f, {.weight_decay = 0.01}, stream);
  const double moments = static_cast<double>(t.m_codes.bytes() + t.m_absmax.bytes());
  bench::count_bytes(state, 3.0 * static_cast<double>(t.p.bytes()) + 4.0 * moments);
}
BENCHMARK(adamw8bit_update)->Arg(1 << 16)->Arg(1 << 24);

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) { return rankwise::bench::run(argc, argv); }
