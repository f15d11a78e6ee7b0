// SPDX-License-Identifier: Apache-2.0
#include "model/head_loss.h"

#include <algorithm>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "model/weight_gradient.h"
#include "parallel/communicator.h"

namespace rankwise {

HeadLoss::HeadLoss(Parameter& head, int64_t first_id, DType compute, int64_t logits_bytes)
    : head_(&head),
      first_id_(first_id),
      chunk_(std::max<int64_t>(
          1, logits_bytes / (shape_of(head.weight).dim(0) * bits_of(compute) / 8))) {}

void HeadLoss::compute(ForwardContext& context, const Tensor& sums) const {
  if (context.training) context.dhidden = context.allocate(context.compute, context.hidden.shape());
  int64_t begin = 0;
  for (const bool has_targets : chunks_with_targets(context)) {
    const int64_t end = std::min(begin + chunk_, context.tokens);
    if (has_targets) {
      compute_chunk(context, sums, begin, end);
    } else if (context.training) {
      fill(context.dhidden.rows(begin, end), 0.0f, *context.stream);
    }
    begin = end;
  }
  if (context.training && context.tensor_ranks->size() > 1) {
    context.tensor_ranks->all_reduce(context.dhidden, ReduceOp::kSum,
                                     "gradient of the head's input", *context.stream);
  }
}

std::vector<bool> HeadLoss::chunks_with_targets(const ForwardContext& context) const {
  std::vector<bool> out(static_cast<size_t>((context.tokens + chunk_ - 1) / chunk_), false);
  for (int64_t t = 0; t < context.tokens; ++t) {
    const bool is_target = context.host_targets[static_cast<size_t>(t)] >= 0;
    if (is_target) out[static_cast<size_t>(t / chunk_)] = true;
  }
  return out;
}

// (ranks, T, 4)
Tensor HeadLoss::exchange_statistics(ForwardContext& context, const Tensor& logits,
                                     const Tensor& targets, const VocabularySlice& slice) const {
  Communicator& ranks = *context.tensor_ranks;
  const int64_t tokens = logits.dim(0);
  const auto allocate = [&](int64_t parts) {
    return context.allocate_workspace(DType::kF64, {parts, tokens, kCrossEntropyStatistics});
  };
  const Tensor own = allocate(1);
  cross_entropy_statistics(own.reshaped({tokens, kCrossEntropyStatistics}), logits, targets, slice,
                           context.training, *context.stream);
  if (ranks.size() == 1) return own;
  const Tensor all = allocate(ranks.size());
  ranks.all_gather(all, own, "softmax statistics", *context.stream);
  return all;
}

void HeadLoss::compute_chunk(ForwardContext& context, const Tensor& sums, int64_t begin,
                             int64_t end) const {
  Stream& stream = *context.stream;
  const Tensor hidden = context.hidden.rows(begin, end);
  const auto workspace = context.arena->scope("workspace");
  const Tensor logits =
      context.allocate_workspace(context.compute, {end - begin, shape_of(head_->weight).dim(0)});
  linear(logits, hidden, head_->weight, 0.0f, stream);
  const Tensor targets = context.targets.rows(begin, end);
  const VocabularySlice slice{first_id_, context.tensor_ranks->rank()};
  const Tensor statistics = exchange_statistics(context, logits, targets, slice);
  cross_entropy(logits, targets, statistics, slice, sums, context.training, stream);
  if (!context.training) return;
  const Tensor dhidden = context.dhidden.rows(begin, end);
  linear_backward_input(dhidden, logits, head_->weight, 0.0f, stream);
  if (head_->trainable) accumulate_weight_gradient(*head_, logits, hidden, stream);
}

}  // namespace rankwise
