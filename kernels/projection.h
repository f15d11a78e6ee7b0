// SPDX-License-Identifier: Apache-2.0
// A weight's gradient in a low-rank subspace, and the way back to the weight:
//   R = left^T G right^T,   W = keep W + alpha left N right,   G = dY^T X.
// Source: Zhao et al., "GaLore". By associativity R takes 2 T (out + in) r operations of dY and X,
// and G is never formed.
#pragma once

#include "kernels/mask_place.h"
#include "runtime/rng.h"
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

struct WeightChange {
  float alpha = 1.0f;
  float keep = 1.0f;  // less than 1 for decoupled weight decay
  // Needed where w is BF16: bits of this update, and where w lies in the whole weight.
  const Rng* rng = nullptr;
  MaskPlace place = {};
};

// w (out, in) = keep w + alpha left n right; w F32 or BF16, rows may be strided; n F32.
//
// The sum is fp32. Into BF16 it is rounded stochastically: up with the probability of what lies
// above the lower neighbour, because rounding to nearest loses every update below half the spacing
// of BF16 numbers, 2^-9 of the weight, and so stops the training. Element j of the whole weight is
// rounded by half j % 2 (0: the low one) of rng->bits(j / 2), also in a slice. Ranks with equal
// devices and arguments get equal bits. The scratch of BF16 has a block of rows of the product,
// too, that stays in the cache of the device.
void add_back_projection(const Tensor& w, const Tensor& n, const Projection& projection,
                         const WeightChange& change, Stream& stream);

}  // namespace rankwise
