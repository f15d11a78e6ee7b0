// SPDX-License-Identifier: Apache-2.0
#include "kernels/swiglu.h"

#include "kernels/check.h"
#include "kernels/cpu/swiglu.h"
#include "kernels/cuda/swiglu.h"
#include "kernels/dispatch.h"

namespace rankwise {

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, Stream& stream) {
  RW_ASSERT(gate.rank() == 2, "swiglu: gate is {}", to_string(gate.shape()));
  check::activation("swiglu", "gate", gate, gate.shape(), gate);
  check::activation("swiglu", "up", up, gate.shape(), gate);
  check::activation("swiglu", "y", y, gate.shape(), gate);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::swiglu(y, gate, up, stream);
  }
  cpu::swiglu(y, gate, up);
}

void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& inner, const Tensor& dy,
                     const Tensor& gate, const Tensor& up, Stream& stream) {
  RW_ASSERT(gate.rank() == 2, "swiglu_backward: gate is {}", to_string(gate.shape()));
  check::activation("swiglu_backward", "gate", gate, gate.shape(), gate);
  check::activation("swiglu_backward", "up", up, gate.shape(), gate);
  check::activation("swiglu_backward", "dy", dy, gate.shape(), gate);
  check::activation("swiglu_backward", "dgate", dgate, gate.shape(), gate);
  check::activation("swiglu_backward", "dup", dup, gate.shape(), gate);
  if (inner.defined()) check::activation("swiglu_backward", "inner", inner, gate.shape(), gate);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::swiglu_backward(dgate, dup, inner, dy, gate, up, stream);
  }
  cpu::swiglu_backward(dgate, dup, inner, dy, gate, up);
}

}  // namespace rankwise
