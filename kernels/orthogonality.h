// SPDX-License-Identifier: Apache-2.0
// How far matrices are from having orthonormal rows or columns: ||M||_F (not squared), with
//   M = p p^T - I for rows,   M = p^T p - I for columns.
// Source: Zhang et al., "AdaLoRA", whose code has the root that the paper's formula has not.
#pragma once

#include <span>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// A matrix p and its gradient: (r, n) when its rows are to be orthonormal, (n, r) when its columns
// are. F32, contiguous; r is meant to be small.
struct OrthogonalityTerm {
  Tensor p, gradient;
  bool columns = false;

  int64_t r() const { return p.dim(columns ? 1 : 0); }
  int64_t n() const { return p.dim(columns ? 0 : 1); }
};

// sum (1) F64 += sum_i ||M_i||_F; gradient_i += weight * d||M_i||_F / dp_i, which is 2 M p /
// ||M||_F for rows, 2 p M / ||M||_F for columns, and taken as 0 where M = 0. The order of summation
// is fixed.
void orthogonality(const Tensor& sum, std::span<const OrthogonalityTerm> terms, float weight,
                   Stream& stream);

}  // namespace rankwise
