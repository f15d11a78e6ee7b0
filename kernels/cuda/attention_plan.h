// SPDX-License-Identifier: Apache-2.0
// Which attention problems go to cuDNN, and the shape of the cuDNN plan that serves each.
#pragma once

#include <array>
#include <compare>
#include <optional>

#include "kernels/attention_arguments.h"

namespace rankwise::cuda {

// The tensors of both passes; kSumExp is log_sum_exp.
enum AttentionOperand { kQ, kK, kV, kY, kSumExp, kDy, kDq, kDk, kDv, kAttentionOperands };

// What a plan depends on. Documents of one length are a dense batch. Others are packed (ragged):
// then batch, length and tokens are rounded up, so that few plans serve many micro-batches; the
// documents added have no tokens.
struct AttentionPlanKey {
  bool backward = false;
  bool ragged = false;
  bool deterministic = false;
  bool stats = false;  // log_sum_exp is read or written
  int64_t batch = 0;   // documents
  int64_t length = 0;  // of the longest document
  int64_t tokens = 0;  // of all documents, when ragged
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t dim = 0;
  int64_t window = 0;  // 0 when no document is longer
  float scale = 0.0f;
  std::array<int64_t, kAttentionOperands>
      strides{};  // elements from token to token; 0: not of this pass

  auto operator<=>(const AttentionPlanKey&) const = default;

  int64_t heads_of(AttentionOperand operand) const {
    const bool of_keys = operand == kK || operand == kV || operand == kDk || operand == kDv;
    return of_keys ? kv_heads : heads;
  }
};

// Nothing when cuDNN is not asked: other types than BF16, fewer queries than keys, head dimensions
// that are no multiple of 16 or above 128, rows that are not aligned to 16 bytes, offsets beyond 32 bits.
std::optional<AttentionPlanKey> attention_plan_key(const Tensor& y, const Tensor& log_sum_exp,
                                                   const AttentionInputs& inputs);
std::optional<AttentionPlanKey> attention_plan_key(const AttentionGradients& gradients,
                                                   const AttentionOutputs& outputs,
                                                   const AttentionInputs& inputs);

// Upper estimate of the scratch memory a plan asks for, when there is no device to build it on.
size_t attention_plan_scratch(const AttentionPlanKey& key);

// Whether keys, values and their gradients pass through contiguous scratch memory: cuDNN keeps copies
// of the gradients, one per query head, which would otherwise be as wide as a row of the packed q, k
// and v.
bool has_contiguous_keys(const AttentionPlanKey& key);

// Element offsets and lengths of packed documents, as cuDNN reads them: one row of I32 per
// AttentionOperand and one, the first, with the lengths.
inline constexpr int64_t kRaggedRows = kAttentionOperands + 1;
int64_t ragged_row_pitch(const AttentionPlanKey& key);  // elements

}  // namespace rankwise::cuda
