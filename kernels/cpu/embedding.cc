// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/embedding.h"

#include <algorithm>

#include "kernels/cpu/work_split.h"

namespace rankwise::cpu {

void embedding(const Tensor& y, const Tensor& ids, const Tensor& table, int64_t first_id) {
  const int64_t tokens = ids.numel();
  const int64_t width = table.dim(1);
#pragma omp parallel for schedule(static) if (tokens * width >= kParallelElements)
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t row = ids.data<int32_t>()[t] - first_id;
    float* out = y.data<float>() + t * width;
    if (row >= 0 && row < table.dim(0)) {
      std::copy_n(table.data<float>() + row * width, width, out);
    } else {
      std::fill_n(out, width, 0.0f);
    }
  }
}

void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids,
                        int64_t first_id) {
  const int64_t tokens = ids.numel();
  const int64_t width = dtable.dim(1);
  // Threads share the columns, not the tokens: a row named twice is summed in token order.
  const FixedChunks columns(width, 64);
#pragma omp parallel for schedule(static) if (tokens * width >= kParallelElements)
  for (int64_t chunk = 0; chunk < columns.count; ++chunk) {
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t row = ids.data<int32_t>()[t] - first_id;
      if (row < 0 || row >= dtable.dim(0)) continue;
      float* sum = dtable.data<float>() + row * width;
      const float* gradient = dy.data<float>() + t * width;
#pragma omp simd
      for (int64_t c = columns.begin(chunk); c < columns.end(chunk); ++c) sum[c] += gradient[c];
    }
  }
}

}  // namespace rankwise::cpu
