// SPDX-License-Identifier: Apache-2.0
// CPU backend of causal attention over packed documents.
#pragma once

#include "kernels/attention_arguments.h"

namespace rankwise::cpu {

void attention(const Tensor& y, const Tensor& log_sum_exp, const AttentionInputs& inputs,
               Stream& stream);
void attention_backward(const AttentionGradients& gradients, const AttentionOutputs& outputs,
                        const AttentionInputs& inputs, Stream& stream);

}  // namespace rankwise::cpu
