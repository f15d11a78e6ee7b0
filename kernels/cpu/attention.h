// SPDX-License-Identifier: Apache-2.0
// CPU backend of causal attention over packed documents.
#pragma once

#include "kernels/attention.h"

namespace rankwise::cpu {

// What both passes read, as in kernels/attention.h.
struct AttentionInputs {
  const Tensor& q;
  const Tensor& k;
  const Tensor& v;
  const Tensor& query_offsets;
  const Tensor& key_offsets;
  const AttentionParams& params;
};

struct AttentionGradients {
  const Tensor& dq;
  const Tensor& dk;
  const Tensor& dv;
};

// What the backward pass reads of the forward pass's result.
struct AttentionOutputs {
  const Tensor& dy;
  const Tensor& y;
  const Tensor& log_sum_exp;
};

void attention(const Tensor& y, const Tensor& log_sum_exp, const AttentionInputs& inputs,
               Stream& stream);
void attention_backward(const AttentionGradients& gradients, const AttentionOutputs& outputs,
                        const AttentionInputs& inputs, Stream& stream);

}  // namespace rankwise::cpu
