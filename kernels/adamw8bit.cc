// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw8bit.h"

#include "kernels/check.h"
#include "kernels/cpu/adamw8bit.h"
#include "kernels/cuda/adamw8bit.h"

namespace rankwise {

void adamw8bit(std::span<const AdamW8bitTensors> tensors, float gradient_scale,
               const AdamWParams& params, Stream& stream) {
  RW_ASSERT(params.step >= 1, "adamw8bit: step {} (the first is 1)", params.step);
  for (const AdamW8bitTensors& t : tensors) {
    check::f32("adamw8bit", "p", t.p, t.p.shape());
    check::f32("adamw8bit", "g", t.g, t.p.shape());
    const auto moment = [&](const char* codes_name, const Tensor& codes, const char* absmax_name,
                            const Tensor& absmax) {
      check::dtype("adamw8bit", codes_name, codes, DType::kU8);
      check::shape("adamw8bit", codes_name, codes, t.p.shape());
      check::contiguous("adamw8bit", codes_name, codes);
      check::f32("adamw8bit", absmax_name, absmax, {adamw8bit_blocks(t.p.numel())});
    };
    moment("m_codes", t.m_codes, "m_absmax", t.m_absmax);
    moment("v_codes", t.v_codes, "v_absmax", t.v_absmax);
  }
  if (stream.measuring()) return;
  const AdamWFactors factors = adamw_factors(params, gradient_scale);
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::adamw8bit(tensors, factors, stream);
  }
  for (const AdamW8bitTensors& t : tensors) cpu::adamw8bit(t, factors);
}

}  // namespace rankwise
