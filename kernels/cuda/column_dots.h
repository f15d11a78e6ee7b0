// SPDX-License-Identifier: Apache-2.0
// CUDA backend of column dots.
#pragma once

#include "kernels/column_dots.h"

namespace rankwise::cuda {

// minus may be undefined.
void column_dots(const ColumnDots& to, const Tensor& dy, const Tensor& y, const Tensor& minus,
                 Stream& stream);

// The second stage of such sums: first (split) and second (width - split), where defined, from the
// sums over the rows of partial (chunks, width), in a fixed order.
struct PartialDots {
  const float* partial;
  int64_t chunks, width;
  int64_t split;
};
void sum_partial_dots(const ColumnDots& first, const ColumnDots& second, const PartialDots& dots,
                      Stream& stream);

}  // namespace rankwise::cuda
