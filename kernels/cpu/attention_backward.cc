// SPDX-License-Identifier: Apache-2.0
// Backward pass of attention on the CPU, with P recomputed from the stored log-sum-exp:
//   P = exp(S - lse), dP = dY V^T, dS = P * (dP - delta), delta = rowsum(dY * Y)
//   dV += P^T dY, dQ += dS K, dK += dS^T Q
// One task owns a kv head of a document with all its query heads, so every sum has a fixed order.
#include <algorithm>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/vector_math.h"

namespace rankwise::cpu {
namespace {

constexpr int64_t kQueryBlock = 64;
constexpr int64_t kKeyBlock = 128;

struct BackwardScratch {
  BackwardScratch(ScratchCursor& cursor, const AttentionProblem& problem)
      : padded_keys(round_up(problem.longest_key, kLanes)),
        keys_transposed(cursor.take(padded_keys * problem.dim)),
        values_transposed(cursor.take(padded_keys * problem.dim)),
        keys(cursor.take(padded_keys * problem.padded_dim)),
        dk(cursor.take(padded_keys * problem.padded_dim)),
        dv(cursor.take(padded_keys * problem.padded_dim)),
        queries(cursor.take(kQueryBlock * problem.padded_dim)),
        dy(cursor.take(kQueryBlock * problem.padded_dim)),
        dq(cursor.take(kQueryBlock * problem.padded_dim)),
        probabilities(cursor.take(kQueryBlock * kKeyBlock)),
        dscores(cursor.take(kQueryBlock * kKeyBlock)),
        log_sum_exp(cursor.take(kQueryBlock)),
        delta(cursor.take(kQueryBlock)) {}

  int64_t padded_keys;
  float* keys_transposed;    // (D, keys) in vectors of keys
  float* values_transposed;  // (D, keys) in vectors of keys
  float* keys;               // (keys, padded D)
  float* dk;                 // (keys, padded D)
  float* dv;                 // (keys, padded D)
  float* queries;            // (kQueryBlock, padded D), scaled
  float* dy;                 // (kQueryBlock, padded D)
  float* dq;                 // (kQueryBlock, padded D), gradient of the scaled queries
  float* probabilities;      // (kQueryBlock, kKeyBlock)
  float* dscores;            // (kQueryBlock, kKeyBlock): dP, then dS
  float* log_sum_exp;        // (kQueryBlock)
  float* delta;              // (kQueryBlock)
};

void unpack_rows(const Tensor& x, int64_t head, int64_t first, const HeadRows& packed,
                 float factor) {
  const int64_t width = x.dim(2);
  const int64_t stride = x.dim(1) * width;
  float* out = x.data<float>() + first * stride + head * width;
  for (int64_t i = 0; i < packed.count; ++i) {
    const float* from = packed.data + i * packed.stride;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) out[i * stride + c] = factor * from[c];
  }
}

class BackwardTask {
 public:
  BackwardTask(const AttentionProblem& problem, const AttentionInputs& inputs,
               const AttentionOutputs& outputs, const AttentionGradients& gradients)
      : problem_(problem), inputs_(inputs), outputs_(outputs), gradients_(gradients) {}

  void operator()(const BackwardScratch& scratch, const Document& document, int64_t kv_head) const;

 private:
  struct QueryBlock {
    int64_t head;
    int64_t first;
    int64_t rows;
  };

  void query_block(const BackwardScratch& scratch, const Document& document,
                   const QueryBlock& block) const;
  void load_block(const BackwardScratch& scratch, const Document& document,
                  const QueryBlock& block) const;
  void score_gradients(const BackwardScratch& scratch, const Document& document,
                       const QueryBlock& block, KeyRange keys) const;
  void score_gradient_row(const BackwardScratch& scratch, int64_t row, KeyRange columns,
                          KeyRange visible) const;
  void key_gradients(const BackwardScratch& scratch, const Document& document,
                     const QueryBlock& block, KeyRange keys) const;

  const AttentionProblem& problem_;
  const AttentionInputs& inputs_;
  const AttentionOutputs& outputs_;
  const AttentionGradients& gradients_;
};

void BackwardTask::operator()(const BackwardScratch& scratch, const Document& document,
                              int64_t kv_head) const {
  const int64_t width = problem_.padded_dim;
  const int64_t padded_keys = round_up(document.keys, kLanes);
  const HeadRows k = head_rows(inputs_.k, kv_head, document.first_key, document.keys);
  const HeadRows v = head_rows(inputs_.v, kv_head, document.first_key, document.keys);
  pack_transposed(scratch.keys_transposed, k, 1.0f);
  pack_transposed(scratch.values_transposed, v, 1.0f);
  pack_rows(scratch.keys, k, width, padded_keys, 1.0f);
  std::fill_n(scratch.dk, padded_keys * width, 0.0f);
  std::fill_n(scratch.dv, padded_keys * width, 0.0f);
  for (int64_t head = kv_head * problem_.group; head < (kv_head + 1) * problem_.group; ++head) {
    for (int64_t first = 0; first < document.queries; first += kQueryBlock) {
      query_block(scratch, document,
                  {head, first, std::min(kQueryBlock, document.queries - first)});
    }
  }
  // The packed queries carry the scale, so dK is complete.
  unpack_rows(gradients_.dk, kv_head, document.first_key,
              {scratch.dk, width, document.keys, problem_.dim}, 1.0f);
  unpack_rows(gradients_.dv, kv_head, document.first_key,
              {scratch.dv, width, document.keys, problem_.dim}, 1.0f);
}

void BackwardTask::query_block(const BackwardScratch& scratch, const Document& document,
                               const QueryBlock& block) const {
  load_block(scratch, document, block);
  const KeyRange keys = document.visible_vectors(block.first, block.first + block.rows);
  for (int64_t begin = keys.begin; begin < keys.end; begin += kKeyBlock) {
    const KeyRange part{begin, std::min(keys.end, begin + kKeyBlock)};
    score_gradients(scratch, document, block, part);
    key_gradients(scratch, document, block, part);
  }
  unpack_rows(gradients_.dq, block.head, document.first_query + block.first,
              {scratch.dq, problem_.padded_dim, block.rows, problem_.dim}, problem_.scale);
}

void BackwardTask::load_block(const BackwardScratch& scratch, const Document& document,
                              const QueryBlock& block) const {
  const int64_t width = problem_.padded_dim;
  const int64_t padded_rows = round_up(block.rows, kRowTile);
  const int64_t first = document.first_query + block.first;
  const HeadRows q = head_rows(inputs_.q, block.head, first, block.rows);
  const HeadRows dy = head_rows(outputs_.dy, block.head, first, block.rows);
  const HeadRows y = head_rows(outputs_.y, block.head, first, block.rows);
  pack_rows(scratch.queries, q, width, padded_rows, problem_.scale);
  pack_rows(scratch.dy, dy, width, padded_rows, 1.0f);
  std::fill_n(scratch.dq, padded_rows * width, 0.0f);
  for (int64_t row = 0; row < block.rows; ++row) {
    float delta = 0.0f;
#pragma omp simd reduction(+ : delta)
    for (int64_t c = 0; c < problem_.dim; ++c) {
      delta += dy.data[row * dy.stride + c] * y.data[row * y.stride + c];
    }
    scratch.delta[row] = delta;
    scratch.log_sum_exp[row] =
        outputs_.log_sum_exp.data<float>()[block.head * inputs_.q.dim(0) + first + row];
  }
}

// P and dS of a block of queries and a block of keys, and dQ += dS K.
void BackwardTask::score_gradients(const BackwardScratch& scratch, const Document& document,
                                   const QueryBlock& block, KeyRange keys) const {
  const int64_t dim = problem_.dim;
  const int64_t width = problem_.padded_dim;
  for (int64_t row = 0; row < block.rows; row += kRowTile) {
    const int64_t end_row = std::min(row + kRowTile, block.rows);
    const KeyRange seen = document.visible_vectors(block.first + row, block.first + end_row);
    const int64_t begin = std::max(keys.begin, seen.begin);
    const int64_t end = std::min(keys.end, seen.end);
    if (begin >= end) continue;
    const BlockExtent extent{kRowTile, end - begin, dim};
    const int64_t corner = row * kKeyBlock + begin - keys.begin;
    multiply({scratch.probabilities + corner, kKeyBlock}, {scratch.queries + row * width, width, 1},
             {scratch.keys_transposed + begin * dim, kLanes * dim, kLanes}, extent);
    multiply({scratch.dscores + corner, kKeyBlock}, {scratch.dy + row * width, width, 1},
             {scratch.values_transposed + begin * dim, kLanes * dim, kLanes}, extent);
    const KeyRange columns{begin - keys.begin, end - keys.begin};
    for (int64_t r = row; r < row + kRowTile; ++r) {
      KeyRange visible{columns.begin, columns.begin};  // nothing, past the last query
      if (r < end_row) {
        const KeyRange all = document.visible(block.first + r);
        visible = {std::max(all.begin, begin) - keys.begin, std::min(all.end, end) - keys.begin};
      }
      score_gradient_row(scratch, r, columns, visible);
    }
    multiply_add({scratch.dq + row * width, width}, {scratch.dscores + corner, kKeyBlock, 1},
                 {scratch.keys + begin * width, kLanes, width}, {kRowTile, width, end - begin});
  }
}

// Turns scores into P and dP into dS; both are 0 in the columns outside `visible`.
void BackwardTask::score_gradient_row(const BackwardScratch& scratch, int64_t row, KeyRange columns,
                                      KeyRange visible) const {
  float* p = scratch.probabilities + row * kKeyBlock;
  float* ds = scratch.dscores + row * kKeyBlock;
  if (visible.begin >= visible.end) {
    std::fill(p + columns.begin, p + columns.end, 0.0f);
    std::fill(ds + columns.begin, ds + columns.end, 0.0f);
    return;
  }
  const float log_sum_exp = scratch.log_sum_exp[row];
  const float delta = scratch.delta[row];
#pragma omp simd
  for (int64_t j = columns.begin; j < columns.end; ++j) {
    p[j] = vector_exp(p[j] - log_sum_exp);
    ds[j] = p[j] * (ds[j] - delta);
  }
  // A masked score may be large enough for an infinite P.
  std::fill(p + columns.begin, p + visible.begin, 0.0f);
  std::fill(ds + columns.begin, ds + visible.begin, 0.0f);
  std::fill(p + visible.end, p + columns.end, 0.0f);
  std::fill(ds + visible.end, ds + columns.end, 0.0f);
}

// dV += P^T dY and dK += dS^T Q, a tile of keys at a time, over the row tiles that see any of them.
void BackwardTask::key_gradients(const BackwardScratch& scratch, const Document& document,
                                 const QueryBlock& block, KeyRange keys) const {
  const int64_t width = problem_.padded_dim;
  const auto seen_by = [&](int64_t row) {
    return document.visible_vectors(block.first + row,
                                    block.first + std::min(row + kRowTile, block.rows));
  };
  // Both ends of what a row tile sees only grow from tile to tile.
  int64_t begin_row = 0;
  int64_t end_row = 0;
  for (int64_t key = keys.begin; key < keys.end; key += kRowTile) {
    while (begin_row < block.rows && seen_by(begin_row).end <= key) begin_row += kRowTile;
    while (end_row < block.rows && seen_by(end_row).begin <= key) end_row += kRowTile;
    if (begin_row >= end_row) continue;
    const int64_t corner = begin_row * kKeyBlock + key - keys.begin;
    const RightBlock dy{scratch.dy + begin_row * width, kLanes, width};
    const RightBlock queries{scratch.queries + begin_row * width, kLanes, width};
    const BlockExtent extent{kRowTile, width, end_row - begin_row};
    multiply_add({scratch.dv + key * width, width}, {scratch.probabilities + corner, 1, kKeyBlock},
                 dy, extent);
    multiply_add({scratch.dk + key * width, width}, {scratch.dscores + corner, 1, kKeyBlock},
                 queries, extent);
  }
}

}  // namespace

void attention_backward(const AttentionGradients& gradients, const AttentionOutputs& outputs,
                        const AttentionInputs& inputs, Stream& stream) {
  const AttentionProblem problem(inputs);
  for_each_task<BackwardScratch>(problem, stream,
                                 BackwardTask(problem, inputs, outputs, gradients));
}

}  // namespace rankwise::cpu
