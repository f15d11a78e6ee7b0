// SPDX-License-Identifier: Apache-2.0
// Dense products at the shapes of a training step: base projections, head, LoRA, attention blocks.
#include <string>
#include <vector>

#include "kernels/matmul.h"
#include "runtime/rng.h"
#include "tests/bench/ceiling.h"

namespace rankwise {
namespace {

struct Product {
  const char* name;
  int64_t m, n, k;
  bool transpose_a, transpose_b;
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
    {"lora/b_rank8", 512, 256, 8, false, true},
    {"lora/b_rank16", 512, 256, 16, false, true},
    {"lora/b_rank16_ffn", 512, 688, 16, false, true},
    {"lora/da_rank16", 16, 256, 512, true, false},
    {"lora/db_rank16", 256, 16, 512, true, false},
    {"attention/qk_64x32", 64, 64, 32, false, true},
    {"attention/qk_128x64", 128, 128, 64, false, true},
    {"attention/pv_64x32", 64, 32, 64, false, false},
    {"attention/pv_128x64", 128, 64, 128, false, false},
    {"decode/gate_up", 1, 688, 256, false, true},
    {"square/1024", 1024, 1024, 1024, false, true},
};

Tensor random_matrix(std::vector<float>& memory, int64_t rows, int64_t columns) {
  memory.resize(static_cast<size_t>(rows * columns));
  Rng(1, "bench").fill_uniform(memory, -1.0f, 1.0f);
  return Tensor(memory.data(), DType::kF32, {rows, columns});
}

void run_product(benchmark::State& state, const Product& p) {
  std::vector<float> a_memory, b_memory, c_memory;
  const Tensor a = random_matrix(a_memory, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k);
  const Tensor b = random_matrix(b_memory, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n);
  const Tensor c = random_matrix(c_memory, p.m, p.n);
  Stream stream;
  const MatmulParams params = {.transpose_a = p.transpose_a, .transpose_b = p.transpose_b};
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
