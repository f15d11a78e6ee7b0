// SPDX-License-Identifier: Apache-2.0
#include "kernels/machine_ceiling.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace rankwise {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

using Vector = float __attribute__((vector_size(kVectorBytes)));

// Two multiply-add units of latency four need eight independent chains; twelve leave some slack and
// still fit sixteen registers.
constexpr int kChains = 12;
constexpr int64_t kSteps = 400'000;
constexpr int kRounds = 8;
constexpr int64_t kCopyFloats = int64_t{16} << 20;  // 64 MiB each way, larger than the caches

class Timer {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// The result only keeps the work from being optimised away. The values converge and stay normal.
float multiply_add_chains() {
  const Vector factor = Vector{} + 0.999f;
  const Vector term = Vector{} + 0.001f;
  Vector chain[kChains];
  for (int c = 0; c < kChains; ++c) chain[c] = Vector{} + static_cast<float>(c);
  for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * factor + term;
  }
  Vector sum = chain[0];
  for (int c = 1; c < kChains; ++c) sum += chain[c];
  return sum[0];
}

double multiply_add_gflops(int threads) {
  constexpr double kFlopsPerThread =
      2.0 * kChains * static_cast<double>(kSteps) * kVectorBytes / sizeof(float);
  double best = 0.0;
  volatile float sink = 0.0f;
  for (int round = 0; round < kRounds; ++round) {
    const Timer timer;
    float sum = 0.0f;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : sum)
    for (int thread = 0; thread < threads; ++thread) sum += multiply_add_chains();
    sink = sum;
    best = std::max(best, kFlopsPerThread * threads / timer.seconds() / 1e9);
  }
  static_cast<void>(sink);
  return best;
}

double copy_gb_per_s(float* to, const float* from, int threads) {
  double best = 0.0;
  for (int round = 0; round < kRounds; ++round) {
    const Timer timer;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; ++thread) {
      const int64_t begin = kCopyFloats * thread / threads;
      const int64_t end = kCopyFloats * (thread + 1) / threads;
      std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin) * sizeof(float));
    }
    best = std::max(best, 2.0 * sizeof(float) * kCopyFloats / timer.seconds() / 1e9);
  }
  return best;
}

}  // namespace

double measure_multiply_add_gflops() { return multiply_add_gflops(omp_get_max_threads()); }

MachineCeiling measure_machine_ceiling() {
  MachineCeiling out;
  out.threads = omp_get_max_threads();
  out.vector_bits = kVectorBytes * 8;
  out.core_gflops = multiply_add_gflops(1);
  out.all_gflops = out.threads == 1 ? out.core_gflops : measure_multiply_add_gflops();

  const auto from = std::make_unique<float[]>(kCopyFloats);
  const auto to = std::make_unique<float[]>(kCopyFloats);
  out.core_copy_gb_per_s = copy_gb_per_s(to.get(), from.get(), 1);
  out.all_copy_gb_per_s =
      out.threads == 1 ? out.core_copy_gb_per_s : copy_gb_per_s(to.get(), from.get(), out.threads);
  return out;
}

}  // namespace rankwise
