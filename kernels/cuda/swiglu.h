// SPDX-License-Identifier: Apache-2.0
// CUDA backend of SwiGLU.
#pragma once

#include "kernels/swiglu.h"

namespace rankwise::cuda {

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, Stream& stream);
// With scratch memory when there are dots.
void swiglu_backward(const SwigluGradients& to, const Tensor& dy, const Tensor& gate,
                     const Tensor& up, Stream& stream);

}  // namespace rankwise::cuda
