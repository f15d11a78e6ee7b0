// SPDX-License-Identifier: Apache-2.0
// Linear layers that read one input, each with a frozen weight and a low-rank term:
//   y_i = (x W_i^T + s_i ((x A_i^T) * e_i) B_i^T) * c_i
// Sources: Hu et al., "LoRA"; Zhang et al., "AdaLoRA", whose singular values are e; Liu et al.,
// "DoRA", whose magnitudes over norms are c, taken as constants. With down_i = x A_i^T,
// ddown_i = s_i (dy_i * c_i) B_i diag(e_i) and G_i = diag(c_i) dy_i^T down_i,
//   dx = sum_i (dy_i * c_i) W_i + ddown_i A_i,   dA_i = ddown_i^T x,
//   dB_i = s_i G_i diag(e_i),   de_i[j] = s_i sum_o B_i[o][j] G_i[o][j].
// Slices of a layer add up: those of B's rows, and those of A's columns with their own downs, each
// give a summand of de.
#pragma once

#include <span>

#include "runtime/quantized_tensor.h"
#include "runtime/stream.h"

namespace rankwise {

// One layer of a group. Rank 0 (a and b undefined): no low-rank term. Weight null, in all layers of
// a group or in none: the low-rank terms alone.
struct LowRankLinear {
  const Weight* weight = nullptr;  // (out, in): F32, BF16 (CUDA) or NF4
  Tensor a = {};                   // (rank, in) F32; rows may be strided
  Tensor b = {};                   // (out, rank) F32
  float scale = 0.0f;
  Tensor e = {};  // (rank) F32; undefined: ones
  Tensor c = {};  // (out) F32; undefined: ones

  int64_t in() const { return weight == nullptr ? a.dim(1) : shape_of(*weight).dim(1); }
  int64_t out() const { return weight == nullptr ? b.dim(0) : shape_of(*weight).dim(0); }
  int64_t rank() const { return a.defined() ? a.dim(0) : 0; }
};

// Of one layer; undefined where the layer has no such matrix.
struct LowRankGradients {
  Tensor da;  // (rank, in) F32; rows may be strided
  Tensor db;  // (out, rank) F32
  Tensor de;  // (rank) F32
};

// Columns of low-rank terms that products on tensor cores take at full rate.
constexpr int64_t padded_rank(int64_t rank) { return (rank + 7) / 8 * 8; }

// Tensors of a group, one entry per layer: ys, dys (T, out_i), downs, ddowns (T, rank_i; undefined
// where the rank is 0). Activations are F32, or BF16 on CUDA, all of one type; rows may be strided.
//
// On CUDA the low-rank terms ride the big products where memory allows: when the outputs of a group
// are neighbouring columns of one matrix (see ForwardContext::allocate_columns), one product makes
// them all; when `downs` are the columns right behind x, or `ddowns` those right behind dys, they
// are multiplied with the weight in one product of inner dimension in + padded_rank (out +
// padded_rank): what follows them up to padded_rank(sum of ranks) columns, if the rows have so
// many, is overwritten with zeros. Any other layout gives the same values by separate products.

// downs[i] = x A_i^T; ys[i] = addend + (x W_i^T + s_i downs[i] diag(e_i) B_i^T) diag(c_i). addend
// (T, out), for a group of one layer only: undefined for none; it may be ys[0].
void low_rank_linear(std::span<const Tensor> ys, std::span<const Tensor> downs, const Tensor& x,
                     std::span<const LowRankLinear> layers, const Tensor& addend, Stream& stream);

// ddowns[i] = s_i dys[i] diag(c_i) B_i diag(e_i); dx (T, in) = beta * dx + sum_i (dys[i] diag(c_i)
// W_i + ddowns[i] A_i). dx may be undefined (not wanted).
void low_rank_linear_backward_input(const Tensor& dx, std::span<const Tensor> ddowns,
                                    std::span<const Tensor> dys,
                                    std::span<const LowRankLinear> layers, float beta,
                                    Stream& stream);

// Adds to the gradients of each layer, as above. Layers of rank 0 are left out. The order of
// summation is fixed.
void low_rank_linear_backward_weight(std::span<const LowRankGradients> gradients,
                                     std::span<const Tensor> ddowns, std::span<const Tensor> dys,
                                     std::span<const Tensor> downs, const Tensor& x,
                                     std::span<const LowRankLinear> layers, Stream& stream);

// w (out, in) F32 += s B diag(e) A of the layer, which has no c: its low-rank term as a change of
// the weight.
void add_low_rank_product(const Tensor& w, const LowRankLinear& layer, Stream& stream);

}  // namespace rankwise
