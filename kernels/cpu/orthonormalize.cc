// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/orthonormalize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {
namespace {

double dot(const float* a, const float* b, int64_t count) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

}  // namespace

void cholesky_step(const CholeskyStep& step) {
  const int64_t rank = step.rank();
  const auto* gram = step.gram.data<float>();
  auto* l = step.work.data<float>();
  auto* lengths = step.lengths.data<float>();
  float lowest = std::numeric_limits<float>::infinity();
  std::vector<double> d(static_cast<size_t>(rank));
  for (int64_t i = 0; i < rank; ++i) {
    d[i] = 1.0 / std::sqrt(static_cast<double>(gram[i * rank + i]));
    float* row = l + i * rank;
    for (int64_t j = 0; j < i; ++j) {
      const double value = gram[i * rank + j] * d[i] * d[j] - dot(row, l + j * rank, j);
      row[j] = static_cast<float>(value / l[j * rank + j]);
    }
    const auto pivot = static_cast<float>(1.0 + step.shift - dot(row, row, i));
    lowest = std::isnan(d[i] * pivot) ? -1.0f : std::min(lowest, pivot);
    row[i] = std::sqrt(std::max(pivot, step.floor));
    const auto length = static_cast<float>(row[i] / d[i]);
    lengths[i] = step.first ? length : lengths[i] * length;
  }
  lengths[rank] = lowest;
  auto* factor = l + rank * rank;
#pragma omp parallel for schedule(dynamic) if (rank * rank * rank > kParallelElements)
  for (int64_t i = 0; i < rank; ++i) {
    float* row = factor + i * rank;
    std::fill_n(row, i, 0.0f);
    row[i] = static_cast<float>(d[i] / l[i * rank + i]);
    for (int64_t j = i + 1; j < rank; ++j) {
      const double value = -dot(row + i, l + j * rank + i, j - i);
      row[j] = static_cast<float>(value / l[j * rank + j]);
    }
  }
}

void check_lengths(const Tensor& failed, const Tensor& lengths) {
  const int64_t rank = lengths.numel() - 1;
  const auto* x = lengths.data<float>();
  const float least = kShortest * *std::max_element(x, x + rank);
  // Comparisons that are false for NaN.
  const bool good =
      x[rank] >= kLowestPivot && std::all_of(x, x + rank, [&](float v) { return v > least; });
  *failed.data<float>() = good ? 0.0f : 1.0f;
}

void copy_unless_failed(const Tensor& to, const Tensor& from, const Tensor& failed) {
  if (*failed.data<float>() != 0.0f) return;
  std::memcpy(to.raw(), from.raw(), static_cast<size_t>(from.bytes()));
}

}  // namespace rankwise::cpu
