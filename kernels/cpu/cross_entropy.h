// SPDX-License-Identifier: Apache-2.0
// CPU backend of masked softmax cross-entropy.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise::cpu {

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& sums,
                   bool write_gradient, Stream& stream);

}  // namespace rankwise::cpu
