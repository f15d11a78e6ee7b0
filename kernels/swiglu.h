// SPDX-License-Identifier: Apache-2.0
// SwiGLU: y = silu(gate) * up, silu(x) = x / (1 + exp(-x)).
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// All (T, F), F32, or BF16 on CUDA, where rows may be strided.
void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, Stream& stream);

// dgate = dy * up * silu'(gate), dup = dy * silu(gate), and inner = silu(gate) * up when defined
// (the forward output again, for the gradient of the layer that read it). dgate may be gate and dup
// may be up (in place).
void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& inner, const Tensor& dy,
                     const Tensor& gate, const Tensor& up, Stream& stream);

}  // namespace rankwise
