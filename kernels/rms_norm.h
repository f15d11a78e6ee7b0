// SPDX-License-Identifier: Apache-2.0
// RMSNorm: y = x * inv_rms * weight, inv_rms = 1 / sqrt(mean(x^2) + eps), over the last dimension.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// x, y (T, C) F32, or BF16 on CUDA, where rows may be strided; weight (C) F32; inv_rms (T) F32 is
// kept for the backward pass. Sums are fp32. Of BF16, x * inv_rms and the weight are each rounded
// to bf16 before they are multiplied, as in the bf16 models of transformers.
void rms_norm(const Tensor& y, const Tensor& inv_rms, const Tensor& x, const Tensor& weight,
              float eps, Stream& stream);

// dx (+)= inv_rms * (dy * weight - x * inv_rms^2 * mean(dy * weight * x)); dweight += sum_t
// dy * x * inv_rms when dweight is defined. accumulate: add to dx instead of writing it.
void rms_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x,
                       const Tensor& weight, const Tensor& inv_rms, bool accumulate,
                       Stream& stream);

}  // namespace rankwise
