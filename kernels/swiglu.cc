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

void swiglu_backward(const SwigluGradients& to, const Tensor& dy, const Tensor& gate,
                     const Tensor& up, Stream& stream) {
  constexpr auto kOp = "swiglu_backward";
  RW_ASSERT(gate.rank() == 2, "swiglu_backward: gate is {}", to_string(gate.shape()));
  check::activation(kOp, "gate", gate, gate.shape(), gate);
  check::activation(kOp, "up", up, gate.shape(), gate);
  check::activation(kOp, "dy", dy, gate.shape(), gate);
  check::activation(kOp, "dgate", to.dgate, gate.shape(), gate);
  check::activation(kOp, "dup", to.dup, gate.shape(), gate);
  if (to.inner.defined()) check::activation(kOp, "inner", to.inner, gate.shape(), gate);
  check_column_dots(kOp, to.gate_dots, gate.dim(1));
  check_column_dots(kOp, to.up_dots, gate.dim(1));
  if constexpr (kHasCuda) {  // dots take scratch memory: also when measuring
    if (stream.is_cuda()) return cuda::swiglu_backward(to, dy, gate, up, stream);
  }
  if (stream.measuring()) return;
  cpu::swiglu_backward(to, dy, gate, up, stream);
}

}  // namespace rankwise
