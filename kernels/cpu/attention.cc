// SPDX-License-Identifier: Apache-2.0
// Forward pass of attention on the CPU. For one kv head of one document, keys and values are packed
// once; then blocks of rows, a row being a query of one of the heads that share the kv head, meet
// panels of keys: S^T = K (scale Q)^T, softmax with a running maximum and sum, O += P V. Scores are
// kept transposed, one row in each lane of a vector, so that maximum and sum run over keys without
// ever crossing lanes.
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/vector_math.h"

namespace rankwise::cpu {
namespace {

constexpr int64_t kRowBlock = 2 * kLanes;
constexpr int64_t kKeyPanel = 256;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct ForwardScratch {
  ForwardScratch(ScratchCursor& cursor, const AttentionProblem& problem)
      : keys(cursor.take((problem.longest_key + kRowTile) * problem.dim)),
        values(cursor.take(problem.longest_key * problem.padded_dim)),
        queries(cursor.take(kRowBlock * problem.dim)),
        output(cursor.take(kRowBlock * problem.padded_dim)),
        scores(cursor.take(kKeyPanel * kRowBlock)),
        maximum(cursor.take(kRowBlock)),
        sum(cursor.take(kRowBlock)),
        factor(cursor.take(kRowBlock)) {}

  float* keys;     // (keys, D) and the zero rows that fill a row tile
  float* values;   // (keys, padded D)
  float* queries;  // (D, kRowBlock) in vectors of rows, scaled
  float* output;   // (kRowBlock, padded D), not yet divided by the sum
  float* scores;   // (kKeyPanel, kRowBlock), then probabilities
  float* maximum;  // (kRowBlock), over the panels so far
  float* sum;      // (kRowBlock), over the panels so far
  float* factor;   // (kRowBlock), scales what was summed before this panel
};

struct RowRange {
  int64_t begin;
  int64_t end;
};

// The rows of one kv head of one document.
struct RowSpace {
  const Document& document;
  int64_t first_head;
  int64_t group;

  int64_t count() const { return document.queries * group; }
  int64_t query(int64_t row) const { return row / group; }
  int64_t head(int64_t row) const { return first_head + row % group; }
  KeyRange visible(int64_t row) const { return document.visible(query(row)); }
};

// Writes -infinity where the row of a lane does not see the key. scores (keys of the panel,
// kRowBlock); the first lane holds row `first`, lanes past the last row do as the last.
void mask_scores(float* scores, const RowSpace& rows, int64_t first, KeyRange panel) {
  const int64_t last = std::min(first + kLanes, rows.count()) - 1;
  const KeyRange seen_by_first = rows.visible(first);
  const KeyRange seen_by_last = rows.visible(last);
  if (seen_by_last.begin <= panel.begin && seen_by_first.end >= panel.end) return;
  IntVector begin{};
  IntVector end{};
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const KeyRange seen = rows.visible(std::min(first + lane, last));
    begin[lane] = static_cast<int32_t>(seen.begin);
    end[lane] = static_cast<int32_t>(seen.end);
  }
  const auto mask = [&](int64_t from, int64_t to) {
    for (int64_t j = std::max(from, panel.begin); j < std::min(to, panel.end); ++j) {
      float* row = scores + (j - panel.begin) * kRowBlock;
      const int32_t key = static_cast<int32_t>(j);
      const IntVector visible = (begin <= key) & (key < end);
      store_vector(row, visible ? load_vector(row) : FloatVector{} - kInfinity);
    }
  };
  // Keys in between are seen by every lane.
  mask(panel.begin, seen_by_last.begin);
  mask(std::max(seen_by_first.end, seen_by_last.begin), panel.end);
}

// Turns a vector's width of scores (count, kRowBlock) into e^(score - maximum) and updates maximum
// and sum of each lane; what was summed before is to be multiplied by `factor`.
void softmax_lanes(float* scores, int64_t count, float* maximum, float* sum, float* factor) {
  const FloatVector before = load_vector(maximum);
  FloatVector largest = before;
  for (int64_t j = 0; j < count; ++j) {
    const FloatVector score = load_vector(scores + j * kRowBlock);
    largest = score > largest ? score : largest;
  }
  // A lane that has seen no key yet: every e^(-infinity - 0) is 0, not NaN.
  const FloatVector shift = largest == -kInfinity ? FloatVector{} : largest;
  const FloatVector scale = vector_exp(before - shift);
  FloatVector total = load_vector(sum) * scale;
  for (int64_t j = 0; j < count; ++j) {
    const FloatVector p = vector_exp(load_vector(scores + j * kRowBlock) - shift);
    store_vector(scores + j * kRowBlock, p);
    total += p;
  }
  store_vector(maximum, largest);
  store_vector(sum, total);
  store_vector(factor, scale);
}

class ForwardTask {
 public:
  ForwardTask(const AttentionProblem& problem, const AttentionInputs& inputs, const Tensor& y,
              const Tensor& log_sum_exp)
      : problem_(problem), inputs_(inputs), y_(y), log_sum_exp_(log_sum_exp) {}

  void operator()(const ForwardScratch& scratch, const Document& document, int64_t kv_head) const;

 private:
  void attend_block(const ForwardScratch& scratch, const RowSpace& rows, RowRange block) const;
  void add_panel(const ForwardScratch& scratch, const RowSpace& rows, RowRange block,
                 KeyRange panel) const;
  void store_block(const ForwardScratch& scratch, const RowSpace& rows, RowRange block) const;

  const AttentionProblem& problem_;
  const AttentionInputs& inputs_;
  const Tensor& y_;
  const Tensor& log_sum_exp_;
};

void ForwardTask::operator()(const ForwardScratch& scratch, const Document& document,
                             int64_t kv_head) const {
  if (document.queries == 0) return;
  const int64_t dim = problem_.dim;
  const int64_t width = problem_.padded_dim;
  const int64_t begin = document.visible(0).begin;  // a window hides what is before
  const int64_t count = document.keys - begin;
  pack_rows(scratch.keys + begin * dim,
            head_rows(inputs_.k, kv_head, document.first_key + begin, count), dim, count + kRowTile,
            1.0f);
  pack_rows(scratch.values + begin * width,
            head_rows(inputs_.v, kv_head, document.first_key + begin, count), width, count, 1.0f);
  const RowSpace rows{document, kv_head * problem_.group, problem_.group};
  for (int64_t first = 0; first < rows.count(); first += kRowBlock) {
    attend_block(scratch, rows, {first, std::min(first + kRowBlock, rows.count())});
  }
}

void ForwardTask::attend_block(const ForwardScratch& scratch, const RowSpace& rows,
                               RowRange block) const {
  const int64_t count = block.end - block.begin;
  HeadRows queries = head_rows(inputs_.q, rows.first_head, rows.document.first_query, count);
  queries.group = rows.group;
  queries.first = block.begin;
  pack_transposed(scratch.queries, queries, problem_.scale);
  std::fill_n(scratch.output, round_up(count, kRowTile) * problem_.padded_dim, 0.0f);
  std::fill_n(scratch.maximum, kRowBlock, -kInfinity);
  std::fill_n(scratch.sum, kRowBlock, 0.0f);
  const KeyRange keys{rows.visible(block.begin).begin, rows.visible(block.end - 1).end};
  for (int64_t begin = keys.begin; begin < keys.end; begin += kKeyPanel) {
    add_panel(scratch, rows, block, {begin, std::min(keys.end, begin + kKeyPanel)});
  }
  store_block(scratch, rows, block);
}

void ForwardTask::add_panel(const ForwardScratch& scratch, const RowSpace& rows, RowRange block,
                            KeyRange panel) const {
  const int64_t dim = problem_.dim;
  const int64_t width = problem_.padded_dim;
  const int64_t lanes = round_up(block.end - block.begin, kLanes);
  const int64_t keys = panel.end - panel.begin;
  multiply({scratch.scores, kRowBlock}, {scratch.keys + panel.begin * dim, dim, 1},
           {scratch.queries, kLanes * dim, kLanes}, {round_up(keys, kRowTile), lanes, dim});
  for (int64_t lane = 0; lane < lanes; lane += kLanes) {
    mask_scores(scratch.scores + lane, rows, block.begin + lane, panel);
    softmax_lanes(scratch.scores + lane, keys, scratch.maximum + lane, scratch.sum + lane,
                  scratch.factor + lane);
  }
  for (int64_t row = block.begin; row < block.end; row += kRowTile) {
    const int64_t lane = row - block.begin;
    const int64_t end_row = std::min(row + kRowTile, block.end);
    float* output = scratch.output + lane * width;
    for (int64_t r = 0; r < end_row - row; ++r) {
      const float factor = scratch.factor[lane + r];
      if (factor == 1.0f) continue;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) output[r * width + c] *= factor;
    }
    const int64_t begin = std::max(panel.begin, rows.visible(row).begin);
    const int64_t end = std::min(panel.end, rows.visible(end_row - 1).end);
    if (begin >= end) continue;
    // Output past the last row holds numbers that nobody reads.
    multiply_add({output, width},
                 {scratch.scores + (begin - panel.begin) * kRowBlock + lane, 1, kRowBlock},
                 {scratch.values + begin * width, kLanes, width}, {kRowTile, width, end - begin});
  }
}

void ForwardTask::store_block(const ForwardScratch& scratch, const RowSpace& rows,
                              RowRange block) const {
  const int64_t tokens = inputs_.q.dim(0);
  for (int64_t row = block.begin; row < block.end; ++row) {
    const int64_t lane = row - block.begin;
    const int64_t token = rows.document.first_query + rows.query(row);
    const float inv_sum = 1.0f / scratch.sum[lane];
    const float* from = scratch.output + lane * problem_.padded_dim;
    float* out = y_.data<float>() + (token * problem_.heads + rows.head(row)) * problem_.dim;
#pragma omp simd
    for (int64_t c = 0; c < problem_.dim; ++c) out[c] = from[c] * inv_sum;
    if (!log_sum_exp_.defined()) continue;
    log_sum_exp_.data<float>()[rows.head(row) * tokens + token] =
        scratch.maximum[lane] + std::log(scratch.sum[lane]);
  }
}

}  // namespace

void attention(const Tensor& y, const Tensor& log_sum_exp, const AttentionInputs& inputs,
               Stream& stream) {
  const AttentionProblem problem(inputs);
  for_each_task<ForwardScratch>(problem, stream, ForwardTask(problem, inputs, y, log_sum_exp));
}

}  // namespace rankwise::cpu
