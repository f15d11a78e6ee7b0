// SPDX-License-Identifier: Apache-2.0
// The products of row norms with NF4 weights, decoded on the way to the tensor cores.
#pragma once

#include "kernels/low_rank_linear.h"

namespace rankwise::cuda {

// Whether nf4_crosses takes the weight: blocks of 64 that no row and no slice cuts.
bool fits_nf4_crosses(const Weight& weight);

// Rows of `crosses` below.
int64_t nf4_cross_parts(const LowRankLinear& layer);

// crosses (nf4_cross_parts, out), of which the sums over the rows are sum_k (W A^T)_ik B_ik, with W
// and A rounded to bf16; q (rank, rank) = A A^T. Both F32, contiguous.
void nf4_crosses(float* crosses, float* q, const LowRankLinear& layer, Stream& stream);

}  // namespace rankwise::cuda
