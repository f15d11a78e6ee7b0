// SPDX-License-Identifier: Apache-2.0
// Forward pass of attention on the CPU. For one kv head of one document, keys (transposed) and values
// are packed once; then blocks of queries meet panels of keys: scores = scale * Q K^T for a tile of
// rows, softmax with a running maximum and sum while the tile is in the first-level cache, then
// O += P V.
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/vector_math.h"

namespace rankwise::cpu {
namespace {

constexpr int64_t kQueryBlock = 64;
constexpr int64_t kKeyPanel = 128;
// Up to so many queries, packing the keys costs more than it saves (decoding with a cache).
constexpr int64_t kFewQueries = 4;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct ForwardScratch {
  ForwardScratch(ScratchCursor& cursor, const AttentionProblem& problem)
      : keys(cursor.take(round_up(problem.longest_key, kLanes) * problem.dim)),
        values(cursor.take(problem.longest_key * problem.padded_dim)),
        queries(cursor.take(kQueryBlock * problem.padded_dim)),
        output(cursor.take(kQueryBlock * problem.padded_dim)),
        scores(cursor.take(std::max(kRowTile * kKeyPanel, problem.longest_key))),
        maximum(cursor.take(kQueryBlock)),
        sum(cursor.take(kQueryBlock)) {}

  float* keys;     // (D, keys) in vectors of keys
  float* values;   // (keys, padded D)
  float* queries;  // (kQueryBlock, padded D), scaled
  float* output;   // (kQueryBlock, padded D), not yet divided by sum
  float* scores;   // (kRowTile, kKeyPanel), then probabilities; or all scores of one query
  float* maximum;  // (kQueryBlock)
  float* sum;      // (kQueryBlock)
};

class ForwardTask {
 public:
  ForwardTask(const AttentionProblem& problem, const AttentionInputs& inputs, const Tensor& y,
              const Tensor& log_sum_exp)
      : problem_(problem), inputs_(inputs), y_(y), log_sum_exp_(log_sum_exp) {}

  void operator()(const ForwardScratch& scratch, const Document& document, int64_t kv_head) const;

 private:
  // One block of queries of one head: [first, first + rows) of its document.
  struct QueryBlock {
    int64_t head;
    int64_t first;
    int64_t rows;
  };

  void attend_block(const ForwardScratch& scratch, const Document& document,
                    const QueryBlock& block) const;
  void add_panel(const ForwardScratch& scratch, const Document& document, const QueryBlock& block,
                 KeyRange panel) const;
  void softmax_row(const ForwardScratch& scratch, int64_t row, float* scores, int64_t count,
                   KeyRange visible) const;
  void attend_query(const ForwardScratch& scratch, const Document& document, int64_t head,
                    int64_t query) const;

  float* output_row(const Document& document, int64_t head, int64_t query) const {
    return y_.data<float>() +
           ((document.first_query + query) * problem_.heads + head) * problem_.dim;
  }
  void store_log_sum_exp(const Document& document, int64_t head, int64_t query, float value) const {
    if (!log_sum_exp_.defined()) return;
    const int64_t tokens = inputs_.q.dim(0);
    log_sum_exp_.data<float>()[head * tokens + document.first_query + query] = value;
  }

  const AttentionProblem& problem_;
  const AttentionInputs& inputs_;
  const Tensor& y_;
  const Tensor& log_sum_exp_;
};

void ForwardTask::operator()(const ForwardScratch& scratch, const Document& document,
                             int64_t kv_head) const {
  const int64_t first_head = kv_head * problem_.group;
  if (document.queries <= kFewQueries) {
    for (int64_t head = first_head; head < first_head + problem_.group; ++head) {
      for (int64_t query = 0; query < document.queries; ++query) {
        attend_query(scratch, document, head, query);
      }
    }
    return;
  }
  pack_transposed(scratch.keys,
                  head_rows(inputs_.k, kv_head, document.first_key, document.keys));
  pack_rows(scratch.values, head_rows(inputs_.v, kv_head, document.first_key, document.keys),
            problem_.padded_dim, document.keys, 1.0f);
  for (int64_t head = first_head; head < first_head + problem_.group; ++head) {
    for (int64_t first = 0; first < document.queries; first += kQueryBlock) {
      attend_block(scratch, document,
                   {head, first, std::min(kQueryBlock, document.queries - first)});
    }
  }
}

void ForwardTask::attend_block(const ForwardScratch& scratch, const Document& document,
                               const QueryBlock& block) const {
  const int64_t width = problem_.padded_dim;
  const int64_t padded_rows = round_up(block.rows, kRowTile);
  pack_rows(scratch.queries,
            head_rows(inputs_.q, block.head, document.first_query + block.first, block.rows), width,
            padded_rows, problem_.scale);
  std::fill_n(scratch.output, padded_rows * width, 0.0f);
  std::fill_n(scratch.maximum, block.rows, -kInfinity);
  std::fill_n(scratch.sum, block.rows, 0.0f);

  const KeyRange keys = document.visible_vectors(block.first, block.first + block.rows);
  for (int64_t begin = keys.begin; begin < keys.end; begin += kKeyPanel) {
    add_panel(scratch, document, block, {begin, std::min(keys.end, begin + kKeyPanel)});
  }

  for (int64_t row = 0; row < block.rows; ++row) {
    const float inv_sum = 1.0f / scratch.sum[row];
    const float* from = scratch.output + row * width;
    float* out = output_row(document, block.head, block.first + row);
#pragma omp simd
    for (int64_t c = 0; c < problem_.dim; ++c) out[c] = from[c] * inv_sum;
    store_log_sum_exp(document, block.head, block.first + row,
                      scratch.maximum[row] + std::log(scratch.sum[row]));
  }
}

void ForwardTask::add_panel(const ForwardScratch& scratch, const Document& document,
                            const QueryBlock& block, KeyRange panel) const {
  const int64_t dim = problem_.dim;
  const int64_t width = problem_.padded_dim;
  for (int64_t row = 0; row < block.rows; row += kRowTile) {
    const int64_t end_row = std::min(row + kRowTile, block.rows);
    const KeyRange seen = document.visible_vectors(block.first + row, block.first + end_row);
    const int64_t begin = std::max(panel.begin, seen.begin);
    const int64_t end = std::min(panel.end, seen.end);
    if (begin >= end) continue;
    multiply({scratch.scores, kKeyPanel}, {scratch.queries + row * width, width, 1},
             {scratch.keys + begin * dim, kLanes * dim, kLanes}, {kRowTile, end - begin, dim});
    for (int64_t r = row; r < end_row; ++r) {
      const KeyRange visible = document.visible(block.first + r);
      softmax_row(scratch, r, scratch.scores + (r - row) * kKeyPanel, end - begin,
                  {std::max(visible.begin, begin) - begin, std::min(visible.end, end) - begin});
    }
    // Probabilities of rows past the last query are finite and meet output rows that nobody reads.
    multiply_add({scratch.output + row * width, width}, {scratch.scores, kKeyPanel, 1},
                 {scratch.values + begin * width, kLanes, width},
                 {kRowTile, width, std::min(end, document.keys) - begin});
  }
}

// Turns scores into e^(score - maximum), 0 outside `visible`; when the maximum grows, what was summed
// before is scaled down.
void ForwardTask::softmax_row(const ForwardScratch& scratch, int64_t row, float* scores,
                              int64_t count, KeyRange visible) const {
  if (visible.begin >= visible.end) {
    std::fill_n(scores, count, 0.0f);
    return;
  }
  std::fill_n(scores, visible.begin, -kInfinity);
  std::fill(scores + visible.end, scores + count, -kInfinity);
  const float before = scratch.maximum[row];
  const float largest = vector_max<kLanes>(scores, count);
  if (largest > before) {
    const float factor = vector_exp(before - largest);
    scratch.maximum[row] = largest;
    scratch.sum[row] *= factor;
    float* output = scratch.output + row * problem_.padded_dim;
#pragma omp simd
    for (int64_t c = 0; c < problem_.padded_dim; ++c) output[c] *= factor;
  }
  const float maximum = scratch.maximum[row];
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < count; ++j) {
    scores[j] = vector_exp(scores[j] - maximum);
    sum += scores[j];
  }
  scratch.sum[row] += sum;
}

// One query against unpacked keys and values: each is read once.
void ForwardTask::attend_query(const ForwardScratch& scratch, const Document& document,
                               int64_t head, int64_t query) const {
  const int64_t kv_head = head / problem_.group;
  const KeyRange visible = document.visible(query);
  const int64_t count = visible.end - visible.begin;
  const HeadRows q = head_rows(inputs_.q, head, document.first_query + query, 1);
  const HeadRows k = head_rows(inputs_.k, kv_head, document.first_key + visible.begin, count);
  const HeadRows v = head_rows(inputs_.v, kv_head, document.first_key + visible.begin, count);
  float* scores = scratch.scores;
  for (int64_t j = 0; j < count; ++j) {
    const float* key = k.data + j * k.stride;
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t c = 0; c < k.width; ++c) dot += q.data[c] * key[c];
    scores[j] = problem_.scale * dot;
  }
  const float maximum = vector_max(scores, count);
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < count; ++j) {
    scores[j] = vector_exp(scores[j] - maximum);
    sum += scores[j];
  }
  float* output = scratch.output;
  std::fill_n(output, v.width, 0.0f);
  for (int64_t j = 0; j < count; ++j) {
    const float* value = v.data + j * v.stride;
#pragma omp simd
    for (int64_t c = 0; c < v.width; ++c) output[c] += scores[j] * value[c];
  }
  const float inv_sum = 1.0f / sum;
  float* out = output_row(document, head, query);
  for (int64_t c = 0; c < v.width; ++c) out[c] = output[c] * inv_sum;
  store_log_sum_exp(document, head, query, maximum + std::log(sum));
}

}  // namespace

void attention(const Tensor& y, const Tensor& log_sum_exp, const AttentionInputs& inputs,
               Stream& stream) {
  const AttentionProblem problem(inputs);
  for_each_task<ForwardScratch>(problem, stream, ForwardTask(problem, inputs, y, log_sum_exp));
}

}  // namespace rankwise::cpu
