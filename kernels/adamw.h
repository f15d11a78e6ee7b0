// SPDX-License-Identifier: Apache-2.0
// AdamW update in the order of torch.optim.AdamW: decay first, eps added to the corrected root; in
// the same pass the moving averages of AdaLoRA's importance.
#pragma once

#include <cstdint>
#include <span>

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
  double importance_beta1 = 0.85;
  double importance_beta2 = 0.85;
};

// How much an element of a parameter matters and how much that varies: moving averages, start at 0.
struct Importance {
  Tensor sensitivity, uncertainty;
};

// A parameter p, its moments m and v and its gradient g: all F32, equal shapes. The importance,
// where defined, has the same shape.
struct AdamWTensors {
  Tensor p, m, v, g;
  Importance importance{};
};

// The numbers of one update that all elements share, in fp32; computed in double, as the reference
// does.
struct AdamWFactors {
  float gradient_scale;
  float keep;           // 1 - lr * wd
  float step_size;      // lr / (1 - b1^t)
  float inv_root2;      // 1 / sqrt(1 - b2^t)
  float beta1, fresh1;  // b1, 1 - b1
  float beta2, fresh2;
  float eps;
  float sensitivity_beta, sensitivity_fresh;  // b1, 1 - b1 of the importance
  float uncertainty_beta, uncertainty_fresh;
};
AdamWFactors adamw_factors(const AdamWParams& params, float gradient_scale);

// For each: p *= 1 - lr * wd; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
// p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps). g is multiplied by gradient_scale
// (the clip factor) as it is read. Where there is an importance, with its own b1 and b2:
// I = |p g| with the new p; sensitivity = b1 sensitivity + (1 - b1) I;
// uncertainty = b2 uncertainty + (1 - b2) |I - sensitivity|.
void adamw(std::span<const AdamWTensors> tensors, float gradient_scale, const AdamWParams& params,
           Stream& stream);

}  // namespace rankwise
