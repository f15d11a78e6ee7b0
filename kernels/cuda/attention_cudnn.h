// SPDX-License-Identifier: Apache-2.0
// Attention by cuDNN, for the problems that it takes.
#pragma once

#include "kernels/attention_arguments.h"
#include "kernels/cuda/attention_plan.h"

namespace rankwise::cuda {

// False when cuDNN is not there or refuses the problem; then nothing was computed. Plans, and
// refusals, are kept as state of the stream.
bool cudnn_attention(const AttentionPlanKey& key, const Tensor& y, const Tensor& log_sum_exp,
                     const AttentionInputs& inputs, Stream& stream);
bool cudnn_attention_backward(const AttentionPlanKey& key, const AttentionGradients& gradients,
                              const AttentionOutputs& outputs, const AttentionInputs& inputs,
                              Stream& stream);

// The rows of attention_plan.h at `rows`, from the query offsets on the device.
void write_ragged_rows(int32_t* rows, const AttentionPlanKey& key, const Tensor& query_offsets,
                       Stream& stream);
// to (tokens, heads, D) = from, of any row strides.
void copy_rows(const Tensor& to, const Tensor& from, Stream& stream);

}  // namespace rankwise::cuda
