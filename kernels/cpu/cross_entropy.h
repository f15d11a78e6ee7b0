// SPDX-License-Identifier: Apache-2.0
// CPU backend of masked softmax cross-entropy.
#pragma once

#include "kernels/cross_entropy.h"

namespace rankwise::cpu {

// write_gradient: logits become the softmax over these columns alone.
void cross_entropy_statistics(const Tensor& statistics, const Tensor& logits, const Tensor& targets,
                              const VocabularySlice& slice, bool write_gradient);
void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& statistics,
                   const VocabularySlice& slice, const Tensor& sums, bool write_gradient,
                   Stream& stream);

}  // namespace rankwise::cpu
