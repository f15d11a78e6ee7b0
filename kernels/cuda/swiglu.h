// SPDX-License-Identifier: Apache-2.0
// CUDA backend of SwiGLU.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise::cuda {

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, Stream& stream);
void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& inner, const Tensor& dy,
                     const Tensor& gate, const Tensor& up, Stream& stream);

}  // namespace rankwise::cuda
