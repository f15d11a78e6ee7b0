// SPDX-License-Identifier: Apache-2.0
// Softmax cross-entropy on the CPU: a row of logits stays in the second-level cache over the passes
// maximum, exponentials and their sum, and (for the gradient) division by the sum. These give the
// softmax over this rank's columns; it shrinks by the share of their exponentials in those of all
// ranks, so that a rank that holds all columns touches each row once.
#include "kernels/cpu/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {
namespace {

// A row of the tensor of statistics.
struct RowStatistics {
  double maximum, sum, of_target, hit;
};
static_assert(sizeof(RowStatistics) == kCrossEntropyStatistics * sizeof(double));

RowStatistics* rows_of(const Tensor& statistics) {
  return reinterpret_cast<RowStatistics*>(statistics.data<double>());
}

// Sum of e^(x - maximum): fp32 within a chunk, fp64 over chunks. write: x becomes the exponentials.
template <bool write>
double sum_of_exponentials(float* x, int64_t count, float maximum) {
  constexpr int64_t kChunk = 512;
  double total = 0.0;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t end = std::min(count, begin + kChunk);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = begin; j < end; ++j) {
      const float value = vector_exp(x[j] - maximum);
      if constexpr (write) x[j] = value;
      sum += value;
    }
    total += sum;
  }
  return total;
}

void multiply(float* x, int64_t count, float factor) {
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) x[j] *= factor;
}

// target: a column of x, or outside [0, columns). write_softmax: x becomes its softmax.
RowStatistics statistics_of(float* x, int64_t columns, int64_t target, bool write_softmax) {
  const float maximum = vector_max(x, columns);
  const bool inside = target >= 0 && target < columns;
  const float of_target = inside ? x[target] : -std::numeric_limits<float>::infinity();
  // Among equal maxima the lowest index is the prediction.
  const bool hit =
      inside && of_target == maximum && std::find(x, x + target, maximum) == x + target;
  // Finite, so that columns of -infinity alone have the sum 0.
  const float origin = std::max(maximum, std::numeric_limits<float>::lowest());
  const double sum = write_softmax ? sum_of_exponentials<true>(x, columns, origin)
                                   : sum_of_exponentials<false>(x, columns, origin);
  if (write_softmax && sum != 0.0) multiply(x, columns, static_cast<float>(1.0 / sum));
  return {maximum, sum, of_target, hit ? 1.0 : 0.0};
}

// Of the whole vocabulary; `first` are the statistics of the first rank, those of the next one lie
// `rows` later. Of equal maxima the first rank's counts: it has the lowest columns.
RowStatistics combined(const RowStatistics* first, int64_t ranks, int64_t rows) {
  RowStatistics all = first[0];
  for (int64_t r = 1; r < ranks; ++r) {
    const RowStatistics& other = first[r * rows];
    if (other.maximum > all.maximum) {
      all.maximum = other.maximum;
      all.hit = other.hit;
    }
    all.of_target = std::max(all.of_target, other.of_target);
  }
  all.sum = 0.0;
  for (int64_t r = 0; r < ranks; ++r) {
    all.sum += first[r * rows].sum * std::exp(first[r * rows].maximum - all.maximum);
  }
  return all;
}

struct RowResult {
  double loss = 0.0;
  double count = 0.0;
  double hit = 0.0;
};

}  // namespace

void cross_entropy_statistics(const Tensor& statistics, const Tensor& logits, const Tensor& targets,
                              const VocabularySlice& slice, bool write_gradient) {
  const int64_t columns = logits.dim(1);
#pragma omp parallel for schedule(static) if (logits.numel() >= kParallelElements)
  for (int64_t t = 0; t < logits.dim(0); ++t) {
    const int64_t target = targets.data<int32_t>()[t];
    rows_of(statistics)[t] = target < 0 ? RowStatistics{}
                                        : statistics_of(logits.data<float>() + t * columns, columns,
                                                        target - slice.first, write_gradient);
  }
}

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& statistics,
                   const VocabularySlice& slice, const Tensor& sums, bool write_gradient,
                   Stream& stream) {
  const int64_t rows = logits.dim(0), columns = logits.dim(1), ranks = statistics.dim(0);
  // The vocabulary ends with the columns of the last rank.
  const int64_t end = slice.rank + 1 == ranks ? slice.first + columns : INT64_MAX;
  auto* results =
      static_cast<RowResult*>(stream.scratch(static_cast<size_t>(rows) * sizeof(RowResult)));
#pragma omp parallel for schedule(static) if (logits.numel() >= kParallelElements)
  for (int64_t t = 0; t < rows; ++t) {
    float* x = logits.data<float>() + t * columns;
    const int64_t target = targets.data<int32_t>()[t];
    RW_ASSERT(target < end, "cross_entropy: target {} of {}", target, end);
    results[t] = RowResult{};
    if (target < 0) {
      if (write_gradient) std::fill_n(x, columns, 0.0f);
      continue;
    }
    const RowStatistics* first = rows_of(statistics) + t;
    const RowStatistics all = combined(first, ranks, rows);
    results[t] = {std::log(all.sum) + (all.maximum - all.of_target), 1.0, all.hit};
    if (!write_gradient) continue;
    const RowStatistics& own = first[slice.rank * rows];
    const double share = own.sum * std::exp(own.maximum - all.maximum) / all.sum;
    if (share != 1.0) multiply(x, columns, static_cast<float>(share));
    const int64_t column = target - slice.first;
    if (column >= 0 && column < columns) x[column] -= 1.0f;
  }
  double* out = sums.data<double>();
  for (int64_t t = 0; t < rows; ++t) {  // in row order, whatever the thread count
    out[0] += results[t].loss;
    out[1] += results[t].count;
    out[2] += results[t].hit;
  }
}

}  // namespace rankwise::cpu
