// SPDX-License-Identifier: Apache-2.0
// CUDA backend of masked softmax cross-entropy.
#pragma once

#include "kernels/cross_entropy.h"

namespace rankwise::cuda {

// Leaves the logits alone.
void cross_entropy_statistics(const Tensor& statistics, const Tensor& logits, const Tensor& targets,
                              const VocabularySlice& slice, Stream& stream);
// Takes scratch memory.
void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& statistics,
                   const VocabularySlice& slice, const Tensor& sums, bool write_gradient,
                   Stream& stream);

}  // namespace rankwise::cuda
