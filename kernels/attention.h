// SPDX-License-Identifier: Apache-2.0
// Causal grouped-query attention over packed documents, without ever storing the score matrix.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

struct AttentionParams {
  float scale = 1.0f;         // multiplies q k^T, usually 1 / sqrt(D)
  int64_t window = 0;         // sliding window: key j visible iff 0 <= i - j < window; 0: unlimited
  int64_t longest_query = 0;  // tokens of the longest document, sizes the scratch
  int64_t longest_key = 0;
};

// q, y (Tq, H, D); k, v (Tk, G, D), query head h reads kv head h / (H / G). Document d owns queries
// [query_offsets[d], query_offsets[d+1]) and keys [key_offsets[d], key_offsets[d+1]) (I32, host
// memory on the CPU); when it has fewer queries than keys, the queries are its last positions
// (decoding with a cache). log_sum_exp (H, Tq) F32 is kept for the backward pass (undefined: not
// wanted).
void attention(const Tensor& y, const Tensor& log_sum_exp, const Tensor& q, const Tensor& k,
               const Tensor& v, const Tensor& query_offsets, const Tensor& key_offsets,
               const AttentionParams& params, Stream& stream);

// dq, dk, dv are written, not accumulated. y and log_sum_exp are those of the forward pass.
// Deterministic: the result does not depend on the thread count.
void attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dy,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                        const Tensor& log_sum_exp, const Tensor& query_offsets,
                        const Tensor& key_offsets, const AttentionParams& params, Stream& stream);

}  // namespace rankwise
