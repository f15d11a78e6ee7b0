// SPDX-License-Identifier: Apache-2.0
// Softmax cross-entropy on the CPU: a row of logits stays in the second-level cache over the passes
// maximum, exponentials and their sum, and (for the gradient) division by the sum.
#include "kernels/cpu/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {
namespace {

struct RowResult {
  double loss = 0.0;
  double count = 0.0;
  double hit = 0.0;
};

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

RowResult row_loss(float* x, int64_t vocabulary, int64_t target, bool write_gradient) {
  const float maximum = vector_max(x, vocabulary);
  const float of_target = x[target];
  // Among equal maxima the lowest index is the prediction.
  const bool hit = of_target == maximum && std::find(x, x + target, maximum) == x + target;
  const double sum = write_gradient ? sum_of_exponentials<true>(x, vocabulary, maximum)
                                    : sum_of_exponentials<false>(x, vocabulary, maximum);
  if (write_gradient) {
    const float factor = static_cast<float>(1.0 / sum);
#pragma omp simd
    for (int64_t j = 0; j < vocabulary; ++j) x[j] *= factor;
    x[target] -= 1.0f;
  }
  const double loss = std::log(sum) + (static_cast<double>(maximum) - of_target);
  return {loss, 1.0, hit ? 1.0 : 0.0};
}

}  // namespace

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& sums,
                   bool write_gradient, Stream& stream) {
  const int64_t rows = logits.dim(0);
  const int64_t vocabulary = logits.dim(1);
  auto* results =
      static_cast<RowResult*>(stream.scratch(static_cast<size_t>(rows) * sizeof(RowResult)));
#pragma omp parallel for schedule(static) if (rows * vocabulary >= kParallelElements)
  for (int64_t t = 0; t < rows; ++t) {
    float* x = logits.data<float>() + t * vocabulary;
    const int64_t target = targets.data<int32_t>()[t];
    RW_ASSERT(target < vocabulary, "cross_entropy: target {} of {}", target, vocabulary);
    results[t] = RowResult{};
    if (target >= 0) {
      results[t] = row_loss(x, vocabulary, target, write_gradient);
    } else if (write_gradient) {
      std::fill_n(x, vocabulary, 0.0f);
    }
  }
  double* out = sums.data<double>();
  for (int64_t t = 0; t < rows; ++t) {  // in row order, whatever the thread count
    out[0] += results[t].loss;
    out[1] += results[t].count;
    out[2] += results[t].hit;
  }
}

}  // namespace rankwise::cpu
