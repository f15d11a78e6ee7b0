// SPDX-License-Identifier: Apache-2.0
// CUDA backend of kernels/row_norms.h.
#pragma once

#include "kernels/row_norms.h"

namespace rankwise::cuda {

void base_row_squares(const Tensor& squares, const Weight& w, Stream& stream);
void row_squares(std::span<const RowSquares> matrices, DType compute, Stream& stream);
void square_roots(const Tensor& norms, const Tensor& squares, Stream& stream);
void magnitude_factors(const Tensor& c, const Tensor& m, const Tensor& squares, Stream& stream);
void set_row_norms(const Tensor& w, const Tensor& m, Stream& stream);

}  // namespace rankwise::cuda
