// SPDX-License-Identifier: Apache-2.0
// CPU backend of SwiGLU.
#pragma once

#include "runtime/tensor.h"

namespace rankwise::cpu {

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up);
// inner may be undefined.
void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& inner, const Tensor& dy,
                     const Tensor& gate, const Tensor& up);

}  // namespace rankwise::cpu
