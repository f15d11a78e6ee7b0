// SPDX-License-Identifier: Apache-2.0
// SwiGLU: y = silu(gate) * up, silu(x) = x / (1 + exp(-x)).
#pragma once

#include "kernels/column_dots.h"

namespace rankwise {

// All (T, F), F32, or BF16 on CUDA, where rows may be strided.
void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, Stream& stream);

// Where swiglu_backward writes. dgate may be gate and dup may be up (in place).
struct SwigluGradients {
  Tensor dgate, dup;
  Tensor inner = {};                        // undefined: not wanted
  ColumnDots gate_dots = {}, up_dots = {};  // of dgate with gate, and of dup with up
};

// dgate = dy * up * silu'(gate), dup = dy * silu(gate), and inner = silu(gate) * up when defined
// (the forward output again, for the gradient of the layer that read it).
void swiglu_backward(const SwigluGradients& to, const Tensor& dy, const Tensor& gate,
                     const Tensor& up, Stream& stream);

}  // namespace rankwise
