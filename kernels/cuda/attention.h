// SPDX-License-Identifier: Apache-2.0
// CUDA backend of causal attention over packed documents: cuDNN where it takes the problem, else
// the project's own kernels.
#pragma once

#include "kernels/attention_arguments.h"

namespace rankwise::cuda {

// Both are called in measuring mode too. log_sum_exp keeps the order of log_sum_exp_length().
void attention(const Tensor& y, const Tensor& log_sum_exp, const AttentionInputs& inputs,
               Stream& stream);
void attention_backward(const AttentionGradients& gradients, const AttentionOutputs& outputs,
                        const AttentionInputs& inputs, Stream& stream);

// The project's own kernels: F32 and BF16, any shape with D <= 256, on the CUDA cores.
// Deterministic.
void tiled_attention(const Tensor& y, const Tensor& log_sum_exp, const AttentionInputs& inputs,
                     Stream& stream);
void tiled_attention_backward(const AttentionGradients& gradients, const AttentionOutputs& outputs,
                              const AttentionInputs& inputs, Stream& stream);
// Bytes of stream.scratch() that tiled_attention_backward asks for.
size_t tiled_attention_scratch(const AttentionInputs& inputs);

// The order of log_sum_exp follows from the shapes alone, so that either backend may run either
// pass. A length n > 0: all documents have n tokens, and head h of query t lies at
// ((t / n) * H + h) * n + t % n. 0: at t * H + h.
int64_t log_sum_exp_length(const AttentionInputs& inputs);

// What the last pass given to this stream ran on: "cudnn", "tiled", or "" before the first.
const char* attention_backend(Stream& stream);

}  // namespace rankwise::cuda
