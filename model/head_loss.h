// SPDX-License-Identifier: Apache-2.0
// The head and its loss over chunks of tokens: the logits of a long batch never exist as a whole.
#pragma once

#include <vector>

#include "kernels/cross_entropy.h"
#include "model/forward_context.h"
#include "parallel/parameter.h"

namespace rankwise {

class HeadLoss {
 public:
  // head (V, C): this rank's rows of the vocabulary, of which `first_id` is the first; one chunk of
  // logits takes about `logits_bytes`.
  HeadLoss(Parameter& head, int64_t first_id, DType compute, int64_t logits_bytes);

  // Adds loss sum, target count and argmax hits to sums (3) F64, the same on all tensor ranks. In
  // training also leaves context.dhidden, the gradient of the sum of losses, and accumulates the
  // head's. Chunks without a target are passed over.
  void compute(ForwardContext& context, const Tensor& sums) const;
  std::vector<bool> chunks_with_targets(const ForwardContext& context) const;

 private:
  Tensor exchange_statistics(ForwardContext& context, const Tensor& logits, const Tensor& targets,
                             const VocabularySlice& slice) const;
  void compute_chunk(ForwardContext& context, const Tensor& sums, int64_t begin, int64_t end) const;

  Parameter* head_;
  int64_t first_id_;
  int64_t chunk_;  // tokens
};

}  // namespace rankwise
