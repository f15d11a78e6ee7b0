// SPDX-License-Identifier: Apache-2.0
// Embedding lookup and gradient at T 512, hidden 256, vocabulary 32000.
#include "kernels/embedding.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/random_tensor.h"

namespace rankwise {
namespace {

struct Call {
  Call() {
    for (int32_t t = 0; t < 512; ++t) ids.data<int32_t>()[t] = t * 61 % 32000;
  }
  Arena arena;
  Stream stream;
  Tensor table = bench::random_tensor(arena, {32000, 256});
  Tensor y = bench::random_tensor(arena, {512, 256});
  Tensor ids = arena.allocate("bench", DType::kI32, {512});
};

void embedding_forward(benchmark::State& state) {
  Call c;
  for (auto _ : state) embedding(c.y, c.ids, c.table, 0, c.stream);
  bench::count_bytes(state, 2.0 * static_cast<double>(c.y.bytes()));  // reads rows, writes y
}
BENCHMARK(embedding_forward);

void embedding_backward(benchmark::State& state) {
  Call c;
  for (auto _ : state) embedding_backward(c.table, c.y, c.ids, 0, c.stream);
  bench::count_bytes(state, 3.0 * static_cast<double>(c.y.bytes()));  // reads 2, writes 1
}
BENCHMARK(embedding_backward);

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) { return rankwise::bench::run(argc, argv); }
