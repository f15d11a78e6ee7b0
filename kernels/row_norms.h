// SPDX-License-Identifier: Apache-2.0
// DoRA's weight diag(c) V with V = W + s B A, c_i = m_i / ||V_i||: norms of rows without forming V.
// Source: Liu et al., "DoRA", whose training takes the norms as constants. With U = W A^T and
// Q = A A^T,
//   ||V_i||^2 = ||W_i||^2 + 2 s sum_k U_ik B_ik + s^2 sum_k (B Q)_ik B_ik.
// Of slices by columns (those of W and A) the squares add up.
#pragma once

#include <span>

#include "kernels/low_rank_linear.h"

namespace rankwise {

// squares (out) F32 = ||W_i||^2.
void base_row_squares(const Tensor& squares, const Weight& w, Stream& stream);

// One matrix: squares (out) F32 becomes ||V_i||^2, not below 0, of the layer's W (not null), A, B
// and s (no e; c is not looked at); base (out) F32 from base_row_squares.
// When c (out) F32 is defined, it becomes m / ||V_i|| as by magnitude_factors.
struct RowSquares {
  Tensor squares;
  Tensor base;
  LowRankLinear layer;
  Tensor m = {}, c = {};
};

// All matrices of the list, on CUDA in few launches. `compute`: of the products with W, F32, or
// BF16 on CUDA; sums are F32.
void row_squares(std::span<const RowSquares> matrices, DType compute, Stream& stream);

// norms (out) F32 = sqrt(squares).
void square_roots(const Tensor& norms, const Tensor& squares, Stream& stream);

// c (out) F32 = m / sqrt(squares), 0 where squares is 0: such a row stays 0.
void magnitude_factors(const Tensor& c, const Tensor& m, const Tensor& squares, Stream& stream);

// Scales rows of w (out, in) F32 so that their norms become m (out) F32; rows of 0 stay.
void set_row_norms(const Tensor& w, const Tensor& m, Stream& stream);

}  // namespace rankwise
