// SPDX-License-Identifier: Apache-2.0
// CUDA backend of masked softmax cross-entropy.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise::cuda {

// Takes scratch memory.
void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& sums,
                   bool write_gradient, Stream& stream);

}  // namespace rankwise::cuda
