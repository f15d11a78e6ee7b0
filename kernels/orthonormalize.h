// SPDX-License-Identifier: Apache-2.0
// Orthonormal bases of the dominant subspace of a gradient: CholeskyQR, block subspace iteration,
// and the exact decomposition as reference.
// Sources: Yamamoto et al., "Roundoff error analysis of the CholeskyQR2 algorithm"; Fukaya et al.,
// "Shifted Cholesky QR"; Halko et al., "Finding structure with randomness".
#pragma once

#include <functional>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// Which side of a gradient (out, in) a basis is for: (out, rank) with orthonormal columns, or
// (rank, in) with orthonormal rows. "Vectors" are these columns or rows.
enum class BasisSide { kLeft, kRight };

// What can fail sets failed (1) F32 on the device: 0, or 1 when the vectors are dependent to
// working precision (the shortest part of a vector that is orthogonal to those before it is below
// 1e-6 of the longest), zero or not finite, with BF16 also when the norm of g is above 1e6. What
// was to be changed then stays as it was, bit by bit.

// Adds a tensor (F32, contiguous) up over ranks in place; it must not take scratch memory of the
// stream. Empty: nothing to add up.
using RankSum = std::function<void(const Tensor&)>;

// Orthonormalises the vectors of y, F32, contiguous, in place: the triangular factor of y's QR
// decomposition has a positive diagonal, so that the result is unique, follows y continuously and
// keeps the direction of the first vector. Orthogonal to 1e-5 when y's condition, after scaling
// its vectors to one length, is below about 1e5. sum_gram: over the ranks that hold the other
// parts of the vectors; without it there are no more vectors than they have elements.
// Three passes of 4 size(y) rank operations in fp32 and 2 rank^3 / 3 for the factor.
void orthonormalize(const Tensor& y, BasisSide side, const Tensor& failed, const RankSum& sum_gram,
                    Stream& stream);

// What several ranks that refresh one basis together add up. Each holds a summand of the gradient
// (its own tokens), or of a split matrix the rows or columns that it owns.
struct SubspaceSums {
  RankSum projected = {};  // R, over the ranks that hold other tokens or other parts of the basis
  RankSum sketch = {};     // Y, over those with other tokens or other parts of R
  RankSum projected_gram = {};  // over those with other parts of R
  RankSum sketch_gram = {};     // over those with other parts of the basis
  RankSum failed = {};          // over all, so that all keep the old basis when one has to
};

struct SubspaceOptions {
  // 1 from the basis of an earlier gradient; 2 or 3 from a random one, which for ranks below about
  // 16 should have 8 vectors more, of which the first are kept after `rotate`.
  int iterations = 1;
  // Turns the basis to the singular vectors of the gradient within the subspace, descending, each
  // in the direction of the old vector that it has most of. Costs a product with g, waits for the
  // stream and decomposes (rank, rank) on the host.
  bool rotate = false;
  SubspaceSums sums = {};
};

// Moves the basis (orthonormal vectors, F32, contiguous) towards the subspace of the largest
// singular values of g (out, in), F32 or on CUDA BF16, contiguous. An iteration, for the left side:
//   R = basis^T g,  orthonormalise the rows of R,  Y = g R^T,  basis = orthonormalised Y.
// Without `rotate` vectors keep their order and direction as far as the subspace does; they tend to
// the singular vectors in descending order. It takes 4 out in rank operations in g's type, and with
// F32 two passes of CholeskyQR for R and for Y: 8 (out + in) rank^2 in fp32.
// With BF16 what is multiplied with g is BF16 and one pass does, of 6 size rank operations in BF16;
// R has one in the last three iterations only, the last Y two of 12: orthogonal to 4e-5, with hard
// spectra and a rank of 1024 to some 1e-4. Without `rotate` and sums nothing waits for the stream.
// Scratch: twice R and Y, and 3 rank^2 in F32; with BF16 4 rank^2, twice Y in F32, twice the larger
// of R and Y in BF16, and with `rotate` or a sum of R that in F32.
void subspace_iteration(const Tensor& basis, BasisSide side, const Tensor& failed, const Tensor& g,
                        const SubspaceOptions& options, Stream& stream);

// basis = the singular vectors of g (out, in), F32, contiguous, for its largest singular values,
// descending, the largest element of each positive; computed on the host.
void exact_basis(const Tensor& basis, BasisSide side, const Tensor& failed, const Tensor& g,
                 Stream& stream);

}  // namespace rankwise
