// SPDX-License-Identifier: Apache-2.0
// Dense products at the shapes of a training step: base projections, head, LoRA, attention blocks.
#include "kernels/matmul.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/random_tensor.h"

namespace rankwise {
namespace {

struct Product {
  const char* name;
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  float beta = 0.0f;  // 1: added to the output, as in a step
};

// T 512, hidden 256, ffn 688.
constexpr Product kProducts[] = {
    {"base/qo", 512, 256, 256, false, true},
    {"base/gate_up", 512, 688, 256, false, true},
    {"base/down", 512, 256, 688, false, true},
    {"base/gate_up_dx", 512, 256, 688, false, false},
    {"base/down_dx", 512, 688, 256, false, false},
    {"base/gate_up_dw", 688, 256, 512, true, false},
    {"head/1024", 512, 1024, 256, false, true},
    {"head/4096", 512, 4096, 256, false, true},
    {"head/4096_dx", 512, 256, 4096, false, false},
    {"lora/a_rank8", 512, 8, 256, false, true},
    {"lora/a_rank16", 512, 16, 256, false, true},
    {"lora/a_rank16_ffn", 512, 16, 688, false, true},
    {"lora/b_rank8", 512, 256, 8, false, true, 1.0f},
    {"lora/b_rank16", 512, 256, 16, false, true, 1.0f},
    {"lora/b_rank16_ffn", 512, 688, 16, false, true, 1.0f},
    {"lora/ddown_rank8", 512, 8, 256, false, false},
    {"lora/dx_rank8", 512, 256, 8, false, false, 1.0f},
    {"lora/db_rank8", 256, 8, 512, true, false, 1.0f},
    {"lora/a_rank8_2048", 512, 8, 2048, false, true},
    {"lora/b_rank8_2048", 512, 2048, 8, false, true, 1.0f},
    {"lora/db_rank8_2048", 2048, 8, 512, true, false, 1.0f},
    {"lora/da_rank16", 16, 256, 512, true, false, 1.0f},
    {"lora/db_rank16", 256, 16, 512, true, false, 1.0f},
    {"attention/qk_64x32", 64, 64, 32, false, true},
    {"attention/qk_128x64", 128, 128, 64, false, true},
    {"attention/pv_64x32", 64, 32, 64, false, false},
    {"attention/pv_128x64", 128, 64, 128, false, false},
    {"decode/gate_up", 1, 688, 256, false, true},
    {"square/1024", 1024, 1024, 1024, false, true},
};

void run_product(benchmark::State& state, const Product& p) {
  Arena arena;  // aligned, as in training: it shows in the thin products
  const auto matrix = [&](int64_t rows, int64_t columns) {
    return bench::random_tensor(arena, {rows, columns});
  };
  const Tensor a = p.transpose_a ? matrix(p.k, p.m) : matrix(p.m, p.k);
  const Tensor b = p.transpose_b ? matrix(p.n, p.k) : matrix(p.k, p.n);
  const Tensor c = matrix(p.m, p.n);
  Stream stream;
  const MatmulParams params = {
      .transpose_a = p.transpose_a, .transpose_b = p.transpose_b, .beta = p.beta};
  for (auto _ : state) matmul(c, a, b, params, stream);
  bench::count_flops(state, 2.0 * static_cast<double>(p.m * p.n * p.k));
}

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) {
  for (const rankwise::Product& product : rankwise::kProducts) {
    benchmark::RegisterBenchmark(
        product.name, [&product](benchmark::State& state) { run_product(state, product); });
  }
  benchmark::AddCustomContext("library", rankwise::cpu_matmul_library());
  return rankwise::bench::run(argc, argv);
}
