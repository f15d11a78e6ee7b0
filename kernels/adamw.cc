// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "kernels/check.h"
#include "kernels/cpu/adamw.h"
#include "kernels/dispatch.h"

namespace rankwise {

void adamw(const Tensor& p, const Tensor& m, const Tensor& v, const Tensor& g, float gradient_scale,
           const AdamWParams& params, Stream& stream) {
  RW_ASSERT(params.step >= 1, "adamw: step {} (the first is 1)", params.step);
  check::f32("adamw", "p", p, p.shape());
  check::f32("adamw", "m", m, p.shape());
  check::f32("adamw", "v", v, p.shape());
  check::f32("adamw", "g", g, p.shape());
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::adamw(p, m, v, g, gradient_scale, params);
}

}  // namespace rankwise
