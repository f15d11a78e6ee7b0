// SPDX-License-Identifier: Apache-2.0
// Arguments of attention in groups, as its backends take them; meanings as in kernels/attention.h.
#pragma once

#include "kernels/attention.h"

namespace rankwise {

// What both passes read.
struct AttentionInputs {
  const Tensor& q;
  const Tensor& k;
  const Tensor& v;
  const Tensor& query_offsets;
  const Tensor& key_offsets;
  const AttentionParams& params;
};

struct AttentionGradients {
  const Tensor& dq;
  const Tensor& dk;
  const Tensor& dv;
};

// What the backward pass reads of the forward pass's result.
struct AttentionOutputs {
  const Tensor& dy;
  const Tensor& y;
  const Tensor& log_sum_exp;
};

}  // namespace rankwise
