// SPDX-License-Identifier: Apache-2.0
// What low-rank adapters have learnt: the subspaces they read from, and what of W they amplify.
// Source: Hu et al., "LoRA", section 7. Its appendix misprints the similarity, which is
//   phi(i, j) = ||V_i W_j^T||_F^2 / min(i, j) = 1 - d^2 / min(i, j), d the projection metric.
#pragma once

#include <cstdint>
#include <vector>

#include "model/adapters/adapter.h"
#include "runtime/arena.h"
#include "runtime/stream.h"

namespace rankwise {

// Results are F32 tensors of the arena under "analysis".
struct SingularVectors {
  Tensor u;   // (m, k), columns orthonormal
  Tensor s;   // (k), descending
  Tensor vt;  // (k, n), rows orthonormal
};

// Of a (m, n), without those whose singular value is less than 1e-5 of the largest; k may be 0.
SingularVectors singular_vectors(const Tensor& a, Arena& arena, Stream& stream);
// The same of the product b a, b (m, r) and a (r, n), which is never formed.
SingularVectors singular_vectors(const Tensor& b, const Tensor& a, Arena& arena, Stream& stream);

// A (r, in) of a low-rank adapter, with AdaLoRA diag(E) A: what it reads from its inputs.
Tensor input_directions(Adapter& adapter, Arena& arena);

// phi(i, j) at (i - 1) * k2 + j - 1, for v (k1, n) and w (k2, n) with orthonormal rows. Of
// independent random subspaces, max(i, j) / n is expected.
std::vector<double> subspace_similarity(const Tensor& v, const Tensor& w, Arena& arena,
                                        Stream& stream);

// Of dW, which the adapter adds to W, with its r leading singular vectors U and V.
struct Amplification {
  double change = 0.0;  // ||dW||_F
  double base = 0.0;    // ||U^T W V||_F

  double factor() const { return change / base; }
};

// w (out, in) F32. All 0 when dW is 0. DoRA's dW, of full rank, is formed beside w.
Amplification amplification(Adapter& adapter, const Tensor& w, Arena& arena, Stream& stream);

}  // namespace rankwise
