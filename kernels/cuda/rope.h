// SPDX-License-Identifier: Apache-2.0
// CUDA backend of the rotary position embedding.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise::cuda {

void rope_tables(const Tensor& cos, const Tensor& sin, const Tensor& positions,
                 const Tensor& inv_freq, Stream& stream);
void rope(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin, bool inverse,
          Stream& stream);

}  // namespace rankwise::cuda
