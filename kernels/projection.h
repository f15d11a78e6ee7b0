// SPDX-License-Identifier: Apache-2.0
// A weight's gradient in a low-rank subspace, and the way back to the weight:
//   R = left^T G right^T,   W += alpha left N right,   G = dY^T X.
// Source: Zhao et al., "GaLore". By associativity R takes 2 T (out + in) r operations of dY and X,
// and G is never formed.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// Of a weight (out, in). An undefined factor is the identity; one at least is defined. The formulas
// hold for any factors; for a projection in the strict sense left has orthonormal columns, right
// orthonormal rows (kernels/orthonormalize.h).
struct Projection {
  Tensor left;   // (out, rank) F32, contiguous
  Tensor right;  // (rank, in) F32, contiguous

  // Of R and N.
  Shape projected(const Shape& weight) const {
    return {left.defined() ? left.dim(1) : weight.dim(0),
            right.defined() ? right.dim(0) : weight.dim(1)};
  }
};

// Where the other operand is BF16 (CUDA only), factors, N and what lies between two products are
// rounded to BF16; sums are fp32. Scratch: those rounded copies and the matrix between two
// products.

// r = left^T g right^T. r as projected() says, F32; g (out, in) F32 or BF16, rows may be strided.
void project(const Tensor& r, const Tensor& g, const Projection& projection, Stream& stream);

// r += left^T (dy^T x) right^T as (dy left)^T x, dy^T (x right^T) or (dy left)^T (x right^T);
// dy (T, out), x (T, in): both F32 or both BF16, rows may be strided.
void projected_backward_weight(const Tensor& r, const Tensor& dy, const Tensor& x,
                               const Projection& projection, Stream& stream);

// w (out, in) += alpha left n right, rounded once; w F32 or BF16, rows may be strided; n F32.
void add_back_projection(const Tensor& w, const Tensor& n, const Projection& projection,
                         float alpha, Stream& stream);

}  // namespace rankwise
