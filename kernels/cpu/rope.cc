// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/rope.h"

#include <cmath>

#include "kernels/cpu/column_dots.h"

namespace rankwise::cpu {
namespace {

struct Pair {
  float low, high;
};

inline Pair turned(float low, float high, float cos, float sin) {
  return {low * cos - high * sin, high * cos + low * sin};
}

}  // namespace

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
        const Pair y = turned(low[i], high[i], c[i], sign * s[i]);
        low[i] = y.low;
        high[i] = y.high;
      }
    }
  }
}

void rope_backward(const Tensor& dx, const Tensor& cos, const Tensor& sin, const Tensor& x,
                   const ColumnDots& to, Stream& stream) {
  if (!to.defined()) return rope(dx, cos, sin, /*inverse=*/true);
  const int64_t dim = x.dim(2);
  const int64_t half = dim / 2;
  const int64_t width = x.dim(1) * dim;
  const auto add_token = [&](int64_t t, int64_t begin, int64_t end,
                             const std::array<TileDots, 1>& dots) {
    const float* c = cos.data<float>() + t * half;
    const float* s = sin.data<float>() + t * half;
    for (int64_t head = begin; head < end; head += dim) {
      float* d = dx.data<float>() + t * width + head;
      const float* y = x.data<float>() + t * width + head;
      const auto [sums, bias] = dots[0].from(head);
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const Pair gradient = turned(d[i], d[i + half], c[i], -s[i]);
        const Pair before = turned(y[i], y[i + half], c[i], -s[i]);
        d[i] = gradient.low;
        d[i + half] = gradient.high;
        sums[i] += gradient.low * (before.low - bias[i]);
        sums[i + half] += gradient.high * (before.high - bias[i + half]);
      }
    }
  };
  sum_over_rows<1>({&to}, x.dim(0), width, dim, stream, add_token);
}

}  // namespace rankwise::cpu
