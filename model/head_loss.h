// SPDX-License-Identifier: Apache-2.0
// The head and its loss over chunks of tokens: the logits of a long batch never exist as a whole.
#pragma once

#include <vector>

#include "model/forward_context.h"
#include "parallel/parameter.h"

namespace rankwise {

class HeadLoss {
 public:
  // head (V, C); one chunk of logits takes about `logits_bytes`.
  HeadLoss(Parameter& head, DType compute, int64_t logits_bytes);

  // Adds loss sum, target count and argmax hits to sums (3) F64. In training also leaves
  // context.dhidden, the gradient of the sum of losses, and accumulates the head's. Chunks without
  // a target are passed over.
  void compute(ForwardContext& context, const Tensor& sums) const;
  std::vector<bool> chunks_with_targets(const ForwardContext& context) const;

 private:
  void compute_chunk(ForwardContext& context, const Tensor& sums, int64_t begin, int64_t end) const;

  Parameter* head_;
  int64_t chunk_;  // tokens
};

}  // namespace rankwise
