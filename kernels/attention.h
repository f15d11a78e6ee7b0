// SPDX-License-Identifier: Apache-2.0
// Causal grouped-query attention over packed documents, without ever storing the score matrix.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// Whether this build can use cuDNN on a GPU; without it the project's own kernels do all.
inline constexpr bool kHasCudnn = RANKWISE_HAS_CUDNN != 0;
// The longest head that attention on a GPU takes; the CPU has no limit.
inline constexpr int64_t kMaxGpuHeadDim = 256;

struct AttentionParams {
  float scale = 1.0f;         // multiplies q k^T, usually 1 / sqrt(D)
  int64_t window = 0;         // sliding window: key j visible iff 0 <= i - j < window; 0: unlimited
  int64_t longest_query = 0;  // tokens of the longest document
  int64_t longest_key = 0;
  bool deterministic = false;  // backward on CUDA: the same bits every time, at some cost
};

// q, y (Tq, H, D); k, v (Tk, G, D), query head h reads kv head h / (H / G). Document d owns queries
// [query_offsets[d], query_offsets[d+1]) and keys [key_offsets[d], key_offsets[d+1]) (I32, in the
// memory of the stream's device); when it has fewer queries than keys, the queries are its last
// positions (decoding with a cache). log_sum_exp (H, Tq) F32 is kept for the backward pass, in an
// order of its elements that only the backend knows (undefined: not wanted). F32, or BF16 on CUDA,
// where rows may be strided.
void attention(const Tensor& y, const Tensor& log_sum_exp, const Tensor& q, const Tensor& k,
               const Tensor& v, const Tensor& query_offsets, const Tensor& key_offsets,
               const AttentionParams& params, Stream& stream);

// dq, dk, dv are written, not accumulated. Packed documents of several lengths run fastest on CUDA
// when a gradient has the row stride of its tensor. y and log_sum_exp are those of the forward
// pass. Deterministic on the CPU: the result does not depend on the thread count.
void attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dy,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                        const Tensor& log_sum_exp, const Tensor& query_offsets,
                        const Tensor& key_offsets, const AttentionParams& params, Stream& stream);

}  // namespace rankwise
