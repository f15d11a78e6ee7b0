// SPDX-License-Identifier: Apache-2.0
// StepFlops: floating-point operations that training a model requires, counted exactly.
#pragma once

#include <cstdint>

#include "model/causal_lm.h"

namespace rankwise {

// Needed work only: recomputation, padding and element-wise operations count nothing, so the share
// of the machine's peak is comparable between runs. Of the work that tensor ranks share, each
// counts its part.
class StepFlops {
 public:
  StepFlops(CausalLm& model, int tensor_size);

  // Forward and backward of one micro-batch: 2 per weight and token forward, 2 for the gradient of
  // the input, 2 for the gradient of a weight that is trained; attention over the pairs of tokens
  // that see each other, forward once and backward twice; the head for trained targets only.
  double training(const MicroBatch& batch) const;

 private:
  double per_token_ = 0.0;
  double per_target_ = 0.0;
  double per_pair_ = 0.0;
};

}  // namespace rankwise
