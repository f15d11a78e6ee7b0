// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attention_blocks.h"

#include <algorithm>

namespace rankwise::cpu {

AttentionProblem::AttentionProblem(const AttentionInputs& inputs)
    : documents(inputs.query_offsets.numel() - 1),
      heads(inputs.q.dim(1)),
      kv_heads(inputs.k.dim(1)),
      group(heads / kv_heads),
      dim(inputs.q.dim(2)),
      padded_dim(round_up(dim, kLanes)),
      scale(inputs.params.scale),
      window(inputs.params.window),
      query_offsets(inputs.query_offsets.data<int32_t>()),
      key_offsets(inputs.key_offsets.data<int32_t>()) {
  RW_ASSERT(query_offsets[0] == 0 && query_offsets[documents] == inputs.q.dim(0),
            "query_offsets {}..{}, {} queries", query_offsets[0], query_offsets[documents],
            inputs.q.dim(0));
  RW_ASSERT(key_offsets[0] == 0 && key_offsets[documents] == inputs.k.dim(0),
            "key_offsets {}..{}, {} keys", key_offsets[0], key_offsets[documents], inputs.k.dim(0));
  for (int64_t d = 0; d < documents; ++d) {
    const Document one = document(d);
    RW_ASSERT(one.queries >= 0 && one.queries <= one.keys, "document {}: {} queries, {} keys", d,
              one.queries, one.keys);
    longest_query = std::max(longest_query, one.queries);
    longest_key = std::max(longest_key, one.keys);
    work += one.queries * one.keys * heads * dim;
  }
}

Document AttentionProblem::document(int64_t index) const {
  return {query_offsets[index], query_offsets[index + 1] - query_offsets[index], key_offsets[index],
          key_offsets[index + 1] - key_offsets[index], window};
}

HeadRows head_rows(const Tensor& x, int64_t head, int64_t first, int64_t count) {
  const int64_t width = x.dim(2);
  const int64_t stride = x.dim(1) * width;
  return {x.data<float>() + first * stride + head * width, stride, count, width};
}

void pack_rows(float* out, const HeadRows& rows, int64_t padded_width, int64_t padded_count,
               float factor) {
  for (int64_t i = 0; i < rows.count; ++i) {
    const float* from = rows.row(i);
    float* to = out + i * padded_width;
#pragma omp simd
    for (int64_t c = 0; c < rows.width; ++c) to[c] = factor * from[c];
    std::fill(to + rows.width, to + padded_width, 0.0f);
  }
  std::fill(out + rows.count * padded_width, out + padded_count * padded_width, 0.0f);
}

void pack_transposed(float* out, const HeadRows& rows, float factor) {
  for (int64_t begin = 0; begin < rows.count; begin += kLanes) {
    float* block = out + begin * rows.width;
    const int64_t lanes = std::min(kLanes, rows.count - begin);
    if (lanes < kLanes) std::fill_n(block, kLanes * rows.width, 0.0f);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const float* from = rows.row(begin + lane);
      for (int64_t c = 0; c < rows.width; ++c) block[c * kLanes + lane] = factor * from[c];
    }
  }
}

}  // namespace rankwise::cpu
