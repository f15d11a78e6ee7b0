// SPDX-License-Identifier: Apache-2.0
// CPU backend of SwiGLU.
#pragma once

#include "kernels/swiglu.h"

namespace rankwise::cpu {

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up);
void swiglu_backward(const SwigluGradients& to, const Tensor& dy, const Tensor& gate,
                     const Tensor& up, Stream& stream);

}  // namespace rankwise::cpu
