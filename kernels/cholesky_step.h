// SPDX-License-Identifier: Apache-2.0
// What kernels/orthonormalize.cc asks of a backend besides products.
#pragma once

#include "runtime/tensor.h"

namespace rankwise {

// One pass of CholeskyQR over `rank` vectors, all F32. With d[j] = gram[j][j]^(-1/2) and
// L L^T = diag(d) gram diag(d) + shift I, where pivots below `floor` are replaced by it:
//   factor() = diag(d) L^-T,   lengths[j] = (first ? 1 : lengths[j]) * L[j][j] / d[j],
//   lengths[rank] = the lowest pivot, before any was replaced; negative when one is NaN.
// lengths[j] becomes, over the passes, the part of vector j that is orthogonal to those before it.
struct CholeskyStep {
  Tensor work;     // (2 rank, rank): working memory, then the factor
  Tensor lengths;  // (rank + 1)
  Tensor gram;     // (rank, rank), of the vectors; on a GPU its symmetric part counts
  float shift = 0.0f;
  float floor = 0.0f;
  bool first = true;

  int64_t rank() const { return gram.dim(0); }
  Tensor factor() const { return work.rows(rank(), 2 * rank()); }
};

// Vectors count as orthonormalised when the last pass found a pivot of at least kLowestPivot, and
// as independent when no length is below kShortest times the longest: check_lengths sets failed (1)
// to 0 or else to 1. copy_unless_failed: to = from if failed is 0.
inline constexpr float kLowestPivot = 0.5f;
inline constexpr float kShortest = 1e-6f;

}  // namespace rankwise
