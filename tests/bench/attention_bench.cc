// SPDX-License-Identifier: Apache-2.0
// Causal attention at hidden 256: FLOPs count visible pairs only (forward 4 D, backward 10 D a
// pair).
#include "kernels/attention.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/random_tensor.h"

namespace rankwise {
namespace {

constexpr int64_t kTokens = 512;

struct Call {
  Call(int64_t queries, int64_t keys, int64_t heads, int64_t kv_heads, int64_t dim)
      : q(bench::random_tensor(arena, {queries, heads, dim})),
        k(bench::random_tensor(arena, {keys, kv_heads, dim})),
        v(bench::random_tensor(arena, k.shape())),
        y(bench::random_tensor(arena, q.shape())),
        dy(bench::random_tensor(arena, q.shape())),
        dq(bench::random_tensor(arena, q.shape())),
        dk(bench::random_tensor(arena, k.shape())),
        dv(bench::random_tensor(arena, k.shape())),
        log_sum_exp(bench::random_tensor(arena, {heads, queries})),
        query_offsets(arena.allocate("bench", DType::kI32, {2})),
        key_offsets(arena.allocate("bench", DType::kI32, {2})) {
    query_offsets.data<int32_t>()[0] = 0;
    query_offsets.data<int32_t>()[1] = static_cast<int32_t>(queries);
    key_offsets.data<int32_t>()[0] = 0;
    key_offsets.data<int32_t>()[1] = static_cast<int32_t>(keys);
    params = {.scale = 0.125f, .longest_query = queries, .longest_key = keys};
  }
  void forward() { attention(y, log_sum_exp, q, k, v, query_offsets, key_offsets, params, stream); }
  void backward() {
    attention_backward(dq, dk, dv, dy, q, k, v, y, log_sum_exp, query_offsets, key_offsets, params,
                       stream);
  }
  // Query-key pairs of all heads, times D.
  double visible_work() const {
    const auto queries = static_cast<double>(q.dim(0));
    const auto keys = static_cast<double>(k.dim(0));
    const double pairs = queries * (keys - queries) + queries * (queries + 1.0) / 2.0;
    return pairs * static_cast<double>(q.dim(1) * q.dim(2));
  }
  Arena arena;
  Stream stream;
  Tensor q, k, v, y, dy, dq, dk, dv, log_sum_exp, query_offsets, key_offsets;
  AttentionParams params;
};

void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"tokens", "heads", "kv_heads", "dim"})
      ->Args({kTokens, 8, 8, 32})
      ->Args({kTokens, 4, 4, 64})
      ->Args({kTokens, 8, 2, 32})
      ->Args({64, 8, 8, 32})
      ->Args({4096, 2, 2, 128});
}

void attention_forward(benchmark::State& state) {
  Call c(state.range(0), state.range(0), state.range(1), state.range(2), state.range(3));
  for (auto _ : state) c.forward();
  bench::count_flops(state, 4.0 * c.visible_work());
}
BENCHMARK(attention_forward)->Apply(shapes);

void attention_backward(benchmark::State& state) {
  Call c(state.range(0), state.range(0), state.range(1), state.range(2), state.range(3));
  c.forward();
  for (auto _ : state) c.backward();
  bench::count_flops(state, 10.0 * c.visible_work());
}
BENCHMARK(attention_backward)->Apply(shapes);

// One token against a cache: reads every key and value once.
void attention_decode(benchmark::State& state) {
  Call c(1, state.range(0), 8, state.range(1), 32);
  for (auto _ : state) c.forward();
  bench::count_bytes(state, 2.0 * static_cast<double>(c.k.bytes()));
}
BENCHMARK(attention_decode)->ArgNames({"keys", "kv_heads"})->Args({512, 8})->Args({4096, 2});

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) { return rankwise::bench::run(argc, argv); }
