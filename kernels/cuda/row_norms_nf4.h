// SPDX-License-Identifier: Apache-2.0
// The products of row norms with NF4 weights, decoded on the way to the tensor cores.
#pragma once

#include <span>

#include "kernels/low_rank_linear.h"

namespace rankwise::cuda {

constexpr int kMatricesPerLaunch = 8;

// Whether nf4_crosses takes the weight: blocks of 64 that no row and no slice cuts.
bool fits_nf4_crosses(const Weight& weight);

// Rows of `crosses` below; they depend on the layer's shapes alone.
int64_t nf4_cross_parts(const LowRankLinear& layer);

// Of one layer: crosses (nf4_cross_parts, out), of which the sums over the rows are
// sum_k (W A^T)_ik B_ik, with A and the 16 values of the codes rounded to bf16; q (rank, rank) =
// A A^T, rows gram_pitch (gram.cuh) apart. Both F32, q aligned to 16 bytes.
struct Nf4Crosses {
  const LowRankLinear* layer;
  float* crosses;
  float* q;
};

// At most kMatricesPerLaunch, in one launch.
void nf4_crosses(std::span<const Nf4Crosses> matrices, Stream& stream);

}  // namespace rankwise::cuda
