// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/rope.h"

#include <cmath>

#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {

void rope_tables(const Tensor& cos, const Tensor& sin, const Tensor& positions,
                 const Tensor& inv_freq) {
  const int64_t tokens = positions.numel();
  const int64_t half = inv_freq.numel();
#pragma omp parallel for schedule(static) if (tokens * half >= kParallelElements)
  for (int64_t t = 0; t < tokens; ++t) {
    const float position = static_cast<float>(positions.data<int32_t>()[t]);
    for (int64_t j = 0; j < half; ++j) {
      const float angle = position * inv_freq.data<float>()[j];  // rounded to fp32, as in training
      cos.data<float>()[t * half + j] = std::cos(angle);
      sin.data<float>()[t * half + j] = std::sin(angle);
    }
  }
}

void rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool inverse) {
  const int64_t tokens = x.dim(0);
  const int64_t heads = x.dim(1);
  const int64_t half = x.dim(2) / 2;
  const float sign = inverse ? -1.0f : 1.0f;
#pragma omp parallel for schedule(static) if (x.numel() >= kParallelElements)
  for (int64_t t = 0; t < tokens; ++t) {
    const float* c = cos.data<float>() + t * half;
    const float* s = sin.data<float>() + t * half;
    for (int64_t h = 0; h < heads; ++h) {
      float* low = x.data<float>() + (t * heads + h) * 2 * half;
      float* high = low + half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float a = low[i];
        const float b = high[i];
        const float turn = sign * s[i];
        low[i] = a * c[i] - b * turn;
        high[i] = b * c[i] + a * turn;
      }
    }
  }
}

}  // namespace rankwise::cpu
