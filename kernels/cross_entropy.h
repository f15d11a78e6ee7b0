// SPDX-License-Identifier: Apache-2.0
// Masked softmax cross-entropy over a chunk of logits: loss sums and, in place, their gradient.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// logits (T, V) F32, or BF16 on CUDA; targets (T) I32, ignored where negative. Adds to sums (3)
// F64: [0] sum of -log softmax(logits)[target], [1] count of targets, [2] count of targets that are
// the argmax. write_gradient: logits become d(sum of losses)/d(logits) = softmax - onehot, 0 in
// ignored rows.
void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& sums,
                   bool write_gradient, Stream& stream);

}  // namespace rankwise
