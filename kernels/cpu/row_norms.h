// SPDX-License-Identifier: Apache-2.0
// CPU backend of kernels/row_norms.h.
#pragma once

#include "kernels/row_norms.h"

namespace rankwise::cpu {

void base_row_squares(const Tensor& squares, const Weight& w, Stream& stream);
void row_squares(const RowSquares& matrix, Stream& stream);
void square_roots(const Tensor& norms, const Tensor& squares);
void magnitude_factors(const Tensor& c, const Tensor& m, const Tensor& squares);
void set_row_norms(const Tensor& w, const Tensor& m);

}  // namespace rankwise::cpu
