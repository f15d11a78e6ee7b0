// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding in the half-rotation convention of Hugging Face models.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// cos, sin (T, D/2) F32 of angle = positions[t] * inv_freq[j]; positions (T) I32, inv_freq (D/2)
// F32. Computed once per micro-batch and shared by all layers.
void rope_tables(const Tensor& cos, const Tensor& sin, const Tensor& positions,
                 const Tensor& inv_freq, Stream& stream);

// In place on q (T, H, D) and k (T, G, D), F32, or BF16 on CUDA, where rows may be strided: x[i],
// x[i + D/2] rotated by +angle (inverse: by -angle, which is the backward pass).
void rope(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin, bool inverse,
          Stream& stream);

}  // namespace rankwise
