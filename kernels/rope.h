// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding in the half-rotation convention of Hugging Face models.
#pragma once

#include "kernels/column_dots.h"

namespace rankwise {

// cos, sin (T, D/2) F32 of angle = positions[t] * inv_freq[j]; positions (T) I32, inv_freq (D/2)
// F32. Computed once per micro-batch and shared by all layers.
void rope_tables(const Tensor& cos, const Tensor& sin, const Tensor& positions,
                 const Tensor& inv_freq, Stream& stream);

// In place on q (T, H, D) and k (T, G, D), F32, or BF16 on CUDA, where rows may be strided: x[i],
// x[i + D/2] rotated by +angle.
void rope(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin, Stream& stream);

// What rope left in q and k, and the sums of their gradients with what it had found there, as
// columns h * D + d; undefined dots are not computed, and without any neither q nor k are read.
struct RopeForward {
  Tensor q, k;
  ColumnDots q_dots = {}, k_dots = {};
};

// In place on dq (T, H, D) and dk (T, G, D), types as above: rotated by -angle.
void rope_backward(const Tensor& dq, const Tensor& dk, const Tensor& cos, const Tensor& sin,
                   const RopeForward& forward, Stream& stream);

}  // namespace rankwise
