// SPDX-License-Identifier: Apache-2.0
#include "kernels/swiglu.h"

#include "kernels/check.h"
#include "kernels/cpu/swiglu.h"
#include "kernels/dispatch.h"

namespace rankwise {

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, Stream& stream) {
  check::f32("swiglu", "gate", gate, gate.shape());
  check::f32("swiglu", "up", up, gate.shape());
  check::f32("swiglu", "y", y, gate.shape());
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::swiglu(y, gate, up);
}

void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& dy, const Tensor& gate,
                     const Tensor& up, Stream& stream) {
  check::f32("swiglu_backward", "gate", gate, gate.shape());
  check::f32("swiglu_backward", "up", up, gate.shape());
  check::f32("swiglu_backward", "dy", dy, gate.shape());
  check::f32("swiglu_backward", "dgate", dgate, gate.shape());
  check::f32("swiglu_backward", "dup", dup, gate.shape());
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::swiglu_backward(dgate, dup, dy, gate, up);
}

}  // namespace rankwise
