// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include <cmath>

#include "kernels/check.h"
#include "kernels/cpu/adamw.h"
#include "kernels/cuda/adamw.h"

namespace rankwise {

AdamWFactors adamw_factors(const AdamWParams& params, float gradient_scale) {
  const double steps = static_cast<double>(params.step);
  const double correction1 = 1.0 - std::pow(params.beta1, steps);
  const double correction2 = 1.0 - std::pow(params.beta2, steps);
  return {.gradient_scale = gradient_scale,
          .keep = static_cast<float>(1.0 - params.lr * params.weight_decay),
          .step_size = static_cast<float>(params.lr / correction1),
          .inv_root2 = static_cast<float>(1.0 / std::sqrt(correction2)),
          .beta1 = static_cast<float>(params.beta1),
          .fresh1 = static_cast<float>(1.0 - params.beta1),
          .beta2 = static_cast<float>(params.beta2),
          .fresh2 = static_cast<float>(1.0 - params.beta2),
          .eps = static_cast<float>(params.eps),
          .sensitivity_beta = static_cast<float>(params.importance_beta1),
          .sensitivity_fresh = static_cast<float>(1.0 - params.importance_beta1),
          .uncertainty_beta = static_cast<float>(params.importance_beta2),
          .uncertainty_fresh = static_cast<float>(1.0 - params.importance_beta2)};
}

void adamw(std::span<const AdamWTensors> tensors, float gradient_scale, const AdamWParams& params,
           Stream& stream) {
  RW_ASSERT(params.step >= 1, "adamw: step {} (the first is 1)", params.step);
  for (const AdamWTensors& t : tensors) {
    check::f32("adamw", "p", t.p, t.p.shape());
    check::f32("adamw", "m", t.m, t.p.shape());
    check::f32("adamw", "v", t.v, t.p.shape());
    check::f32("adamw", "g", t.g, t.p.shape());
    const auto& [sensitivity, uncertainty] = t.importance;
    if (!sensitivity.defined() && !uncertainty.defined()) continue;
    check::f32("adamw", "sensitivity", sensitivity, t.p.shape());
    check::f32("adamw", "uncertainty", uncertainty, t.p.shape());
  }
  if (stream.measuring()) return;
  const AdamWFactors factors = adamw_factors(params, gradient_scale);
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::adamw(tensors, factors, stream);
  }
  for (const AdamWTensors& t : tensors) cpu::adamw(t, factors);
}

}  // namespace rankwise
