// SPDX-License-Identifier: Apache-2.0
// AdamW update in the order of torch.optim.AdamW: decay first, eps added to the corrected root.
#pragma once

#include <cstdint>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

struct AdamWParams {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;
  int64_t step = 1;  // 1 for the first update
};

// p *= 1 - lr * wd; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
// p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps). All F32, equal shapes; g is
// multiplied by gradient_scale (the clip factor) as it is read.
void adamw(const Tensor& p, const Tensor& m, const Tensor& v, const Tensor& g, float gradient_scale,
           const AdamWParams& params, Stream& stream);

}  // namespace rankwise
