// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/column_dots.h"

namespace rankwise::cpu {

void column_dots(const ColumnDots& to, const Tensor& dy, const Tensor& y, const Tensor& minus,
                 Stream& stream) {
  const int64_t width = dy.dim(1);
  const auto add_row = [&](int64_t row, int64_t begin, int64_t end,
                           const std::array<TileDots, 1>& dots) {
    const int64_t first = row * width + begin, columns = end - begin;
    const auto [sums, bias] = dots[0].from(begin);
    const float* d = dy.data<float>() + first;
    const float* in = y.data<float>() + first;
    if (minus.defined()) {
      const float* less = minus.data<float>() + first;
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c) sums[c] += d[c] * (in[c] - less[c] - bias[c]);
    } else {
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c) sums[c] += d[c] * (in[c] - bias[c]);
    }
  };
  sum_over_rows<1>({&to}, dy.dim(0), width, 1, stream, add_row);
}

}  // namespace rankwise::cpu
