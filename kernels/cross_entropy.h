// SPDX-License-Identifier: Apache-2.0
// Masked softmax cross-entropy over a chunk of logits, whose vocabulary may be split over ranks:
// loss sums and, in place, their gradient.
#pragma once

#include <cstdint>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// The columns of the vocabulary that a rank holds, and its place among the ranks that share it.
struct VocabularySlice {
  int64_t first = 0;
  int rank = 0;
};

// What ranks exchange for each row (of its own columns): the maximum, the sum of e^(x - maximum),
// the target's logit (-infinity when it lies elsewhere), and 1 when the target is the lowest column
// that has the maximum, else 0.
inline constexpr int64_t kCrossEntropyStatistics = 4;

// logits (T, V) F32, or BF16 on CUDA; targets (T) I32 in the whole vocabulary, ignored where
// negative; statistics (T, 4) F64. write_gradient: as in cross_entropy, which must follow; until
// then the logits are of no use to anyone else.
void cross_entropy_statistics(const Tensor& statistics, const Tensor& logits, const Tensor& targets,
                              const VocabularySlice& slice, bool write_gradient, Stream& stream);

// statistics (ranks, T, 4): those of all ranks in the order of their columns. Adds to sums (3) F64:
// [0] sum of -log softmax(logits)[target], [1] count of targets, [2] count of targets that are the
// argmax (of equal maxima the lowest column); the same on every rank. write_gradient: logits become
// this rank's columns of d(sum of losses)/d(logits) = softmax - onehot, 0 in ignored rows.
void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& statistics,
                   const VocabularySlice& slice, const Tensor& sums, bool write_gradient,
                   Stream& stream);

}  // namespace rankwise
