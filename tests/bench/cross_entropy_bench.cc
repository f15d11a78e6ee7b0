// SPDX-License-Identifier: Apache-2.0
// Both steps of cross-entropy over a chunk of 128 tokens, vocabularies 4096 and 32000.
#include "kernels/cross_entropy.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/random_tensor.h"

namespace rankwise {
namespace {

void cross_entropy_rows(benchmark::State& state) {
  Arena arena;
  Stream stream;
  const Tensor logits = bench::random_tensor(arena, {128, state.range(0)});
  const Tensor targets = arena.allocate("bench", DType::kI32, {128});
  for (int32_t t = 0; t < 128; ++t) targets.data<int32_t>()[t] = t * 31;
  const Tensor sums = arena.allocate("bench", DType::kF64, {3});
  const bool write_gradient = state.range(1) != 0;
  const Tensor statistics = arena.allocate("bench", DType::kF64, {1, 128, 4});
  for (auto _ : state) {
    cross_entropy_statistics(statistics.reshaped({128, 4}), logits, targets, {}, write_gradient,
                             stream);
    cross_entropy(logits, targets, statistics, {}, sums, write_gradient, stream);
  }
  // Reads the logits, and writes the gradient in their place.
  bench::count_bytes(state, (write_gradient ? 2.0 : 1.0) * static_cast<double>(logits.bytes()));
}
BENCHMARK(cross_entropy_rows)
    ->ArgNames({"vocabulary", "gradient"})
    ->ArgsProduct({{4096, 32000}, {0, 1}});

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) { return rankwise::bench::run(argc, argv); }
