// SPDX-License-Identifier: Apache-2.0
// CPU backend of kernels/svd.h.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise::cpu {

void svd(const Tensor& u, const Tensor& s, const Tensor& vt, const Tensor& a, Stream& stream);

}  // namespace rankwise::cpu
