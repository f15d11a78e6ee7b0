// SPDX-License-Identifier: Apache-2.0
// The one matrix that all products of a group of low-rank linear layers read, and its makers.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/low_rank_linear.h"

namespace rankwise::cuda {

inline constexpr int kMaxLayers = 8;

// Sizes of a group and the place of each layer in it; handed to kernels by value.
struct Group {
  int layers = 0;
  int64_t in = 0, out = 0;  // out: sum over the layers
  int64_t rank = 0;         // padded_rank of the sum: columns behind those of the layers are 0
  int64_t out_begin[kMaxLayers + 1] = {};
  int64_t rank_begin[kMaxLayers + 1] = {};

  // Elements from row to row of the matrix, so that rows begin aligned.
  int64_t stride() const { return (in + rank + 63) / 64 * 64; }
};

Group group_of(std::span<const LowRankLinear> layers);

// The matrix (out + rank, in + rank): rows of outputs above rows of ranks, columns of inputs before
// columns of ranks:
//   | W_0   s_0 B_0 diag(e_0)                      |
//   | W_1                       s_1 B_1 diag(e_1)  |
//   | A_0                                          |
//   | A_1                       (not written)      |
// with the rows of W_l and B_l multiplied with c_l. Its upper half [W sBe] multiplies [x down]
// forward, its left half [W; A] multiplies [dy ddown] backward, its lower left quarter makes the
// downs and its upper right quarter the ddowns.
void expand_weights(const Tensor& matrix, const Group& group, std::span<const LowRankLinear> layers,
                    Stream& stream);
void expand_terms(const Tensor& matrix, const Group& group, std::span<const LowRankLinear> layers,
                  Stream& stream);

// Adds to da of layer l its rows of a_sums (rank, in), and to db and de what follows from G_l, the
// block of rows of outputs and columns of ranks of layer l in b_sums (out, rank) times c_l; the
// rest of b_sums is not used.
void add_gradients(std::span<const LowRankGradients> gradients, const Tensor& a_sums,
                   const Tensor& b_sums, const Group& group, std::span<const LowRankLinear> layers,
                   Stream& stream);

}  // namespace rankwise::cuda
