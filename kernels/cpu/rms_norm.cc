// SPDX-License-Identifier: Apache-2.0
// RMSNorm on the CPU: one row at a time, while it is in the first-level cache.
#include "kernels/cpu/rms_norm.h"

#include <cmath>

#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {
namespace {

// What one row of the backward pass reads.
struct BackwardRow {
  const float* dy;
  const float* x;
  const float* weight;
  float inv_rms;
  int64_t width;
};

void input_gradient(float* dx, const BackwardRow& row, bool accumulate) {
  const float* dy = row.dy;
  const float* x = row.x;
  const float* weight = row.weight;
  const float inv = row.inv_rms;
  float projection = 0.0f;  // sum of dy * weight * x
#pragma omp simd reduction(+ : projection)
  for (int64_t c = 0; c < row.width; ++c) projection += dy[c] * weight[c] * x[c];
  const float along_x = inv * inv * inv * projection / static_cast<float>(row.width);
  if (accumulate) {
#pragma omp simd
    for (int64_t c = 0; c < row.width; ++c) dx[c] += inv * dy[c] * weight[c] - along_x * x[c];
  } else {
#pragma omp simd
    for (int64_t c = 0; c < row.width; ++c) dx[c] = inv * dy[c] * weight[c] - along_x * x[c];
  }
}

void add_weight_gradient(float* dweight, const BackwardRow& row) {
  const float* dy = row.dy;
  const float* x = row.x;
  const float inv = row.inv_rms;
#pragma omp simd
  for (int64_t c = 0; c < row.width; ++c) dweight[c] += inv * dy[c] * x[c];
}

}  // namespace

void rms_norm(const Tensor& y, const Tensor& inv_rms, const Tensor& x, const Tensor& weight,
              float eps) {
  const int64_t rows = x.dim(0);
  const int64_t width = x.dim(1);
  const float* scale = weight.data<float>();
#pragma omp parallel for schedule(static) if (rows * width >= kParallelElements)
  for (int64_t t = 0; t < rows; ++t) {
    const float* in = x.data<float>() + t * width;
    float* out = y.data<float>() + t * width;
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t c = 0; c < width; ++c) squares += in[c] * in[c];
    const float inv = 1.0f / std::sqrt(squares / static_cast<float>(width) + eps);
    inv_rms.data<float>()[t] = inv;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) out[c] = in[c] * inv * scale[c];
  }
}

void rms_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x,
                       const Tensor& weight, const Tensor& inv_rms, bool accumulate,
                       Stream& stream) {
  const int64_t rows = x.dim(0);
  const int64_t width = x.dim(1);
  const FixedChunks chunks(rows, 64);
  const bool with_weight = dweight.defined();
  float* partial = nullptr;  // (chunks, C)
  if (with_weight) {
    const size_t values = static_cast<size_t>(chunks.count * width);
    partial = static_cast<float*>(stream.scratch(values * sizeof(float)));
    std::fill_n(partial, values, 0.0f);
  }
#pragma omp parallel for schedule(static) if (rows * width >= kParallelElements)
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    for (int64_t t = chunks.begin(chunk); t < chunks.end(chunk); ++t) {
      const BackwardRow row{dy.data<float>() + t * width, x.data<float>() + t * width,
                            weight.data<float>(), inv_rms.data<float>()[t], width};
      // Before dx, which may be dy.
      if (with_weight) add_weight_gradient(partial + chunk * width, row);
      input_gradient(dx.data<float>() + t * width, row, accumulate);
    }
  }
  if (with_weight) add_rows(dweight.data<float>(), partial, chunks.count, width);
}

}  // namespace rankwise::cpu
