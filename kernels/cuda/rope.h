// SPDX-License-Identifier: Apache-2.0
// CUDA backend of the rotary position embedding.
#pragma once

#include "kernels/rope.h"

namespace rankwise::cuda {

void rope_tables(const Tensor& cos, const Tensor& sin, const Tensor& positions,
                 const Tensor& inv_freq, Stream& stream);
void rope(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin, Stream& stream);
// With scratch memory when there are dots.
void rope_backward(const Tensor& dq, const Tensor& dk, const Tensor& cos, const Tensor& sin,
                   const RopeForward& forward, Stream& stream);

}  // namespace rankwise::cuda
