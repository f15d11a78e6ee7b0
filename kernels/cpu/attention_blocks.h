// SPDX-License-Identifier: Apache-2.0
// What the two passes of attention share: documents, visible keys, packed copies of heads, scratch.
#pragma once

#include <omp.h>

#include <cstdint>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/block_product.h"

namespace rankwise::cpu {

struct KeyRange {
  int64_t begin;
  int64_t end;
};

// One document; queries and keys are counted from its own beginning.
struct Document {
  int64_t first_query;
  int64_t queries;
  int64_t first_key;
  int64_t keys;
  int64_t window;

  // The queries are the last positions of the document.
  KeyRange visible(int64_t query) const {
    const int64_t position = keys - queries + query;
    const int64_t begin = window > 0 && position >= window ? position - window + 1 : 0;
    return {begin, position + 1};
  }
  // Keys that queries [begin, end) see together, widened to whole vectors.
  KeyRange visible_vectors(int64_t begin, int64_t end) const {
    return {round_down(visible(begin).begin, kLanes), round_up(visible(end - 1).end, kLanes)};
  }
};

// Sizes of a call. Work is split into (document, kv head) pairs: each writes its own part of the
// results, in an order that is fixed.
struct AttentionProblem {
  explicit AttentionProblem(const AttentionInputs& inputs);  // checks the offsets

  Document document(int64_t index) const;
  int64_t tasks() const { return documents * kv_heads; }

  int64_t documents;
  int64_t heads;
  int64_t kv_heads;
  int64_t group;       // query heads of one kv head
  int64_t dim;         // D
  int64_t padded_dim;  // D rounded up to whole vectors
  int64_t longest_query = 0;
  int64_t longest_key = 0;
  int64_t work = 0;  // multiply-adds of one product, for the choice of threads
  float scale;
  int64_t window;
  const int32_t* query_offsets;
  const int32_t* key_offsets;
};

// Rows inside a (T, H, D) tensor: `group` neighbouring heads of each token, token by token.
struct HeadRows {
  const float* row(int64_t index) const {
    const int64_t position = first + index;
    if (group == 1) return data + position * stride;  // spares a division
    return data + position / group * stride + position % group * width;
  }
  const float* data;
  int64_t stride;  // from token to token
  int64_t count;
  int64_t width;
  int64_t group = 1;
  int64_t first = 0;  // row 0, counted from the first head at `data`
};
// One head, tokens [first, first + count).
HeadRows head_rows(const Tensor& x, int64_t head, int64_t first, int64_t count);

// out (padded_count, padded_width) = factor * rows, zero where the rows end.
void pack_rows(float* out, const HeadRows& rows, int64_t padded_width, int64_t padded_count,
               float factor);
// factor * the transpose, in vectors of rows: out[(row / kLanes * width + column) * kLanes + row %
// kLanes]. The last vector is filled with zeros.
void pack_transposed(float* out, const HeadRows& rows, float factor);

// Hands out aligned pieces of scratch memory; without memory it only counts.
class ScratchCursor {
 public:
  explicit ScratchCursor(float* memory) : memory_(memory) {}
  float* take(int64_t floats) {
    float* piece = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += round_up(floats, kAlignedFloats);
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  static constexpr int64_t kAlignedFloats = 16;  // a cache line
  float* memory_;
  int64_t used_ = 0;
};

// Runs task(scratch, document, kv head) for every pair. Each thread builds its own
// Scratch(cursor, problem), which takes from the cursor what a task needs.
template <class Scratch, class Task>
void for_each_task(const AttentionProblem& problem, Stream& stream, const Task& task) {
  constexpr int64_t kSerialWork = 1 << 20;
  const int threads = problem.work < kSerialWork ? 1 : omp_get_max_threads();
  ScratchCursor measure(nullptr);
  Scratch(measure, problem);
  const int64_t floats = measure.used();
  auto* memory =
      static_cast<float*>(stream.scratch(static_cast<size_t>(floats) * threads * sizeof(float)));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    ScratchCursor cursor(memory + omp_get_thread_num() * floats);
    const Scratch scratch(cursor, problem);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < problem.tasks(); ++i) {
      task(scratch, problem.document(i / problem.kv_heads), i % problem.kv_heads);
    }
  }
}

}  // namespace rankwise::cpu
