// SPDX-License-Identifier: Apache-2.0
// CUDA backend of RMSNorm.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise::cuda {

void rms_norm(const Tensor& y, const Tensor& inv_rms, const Tensor& x, const Tensor& weight,
              float eps, Stream& stream);

// Takes scratch memory for dweight. dx may be dy.
void rms_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x,
                       const Tensor& weight, const Tensor& inv_rms, bool accumulate,
                       Stream& stream);

}  // namespace rankwise::cuda
