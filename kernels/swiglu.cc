// SPDX-License-Identifier: Apache-2.0
#include "kernels/swiglu.h"

#include "kernels/check.h"
#include "kernels/cpu/swiglu.h"
#include "kernels/cuda/swiglu.h"
#include "kernels/dispatch.h"

namespace rankwise {
namespace {

void check_like(const char* op, const char* argument, const Tensor& actual, const Tensor& gate) {
  check::activation(op, argument, actual, gate.shape());
  check::dtype(op, argument, actual, gate.dtype());
}

}  // namespace

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, Stream& stream) {
  RW_ASSERT(gate.rank() == 2, "swiglu: gate is {}", to_string(gate.shape()));
  check_like("swiglu", "gate", gate, gate);
  check_like("swiglu", "up", up, gate);
  check_like("swiglu", "y", y, gate);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::swiglu(y, gate, up, stream);
  }
  cpu::swiglu(y, gate, up);
}

void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& inner, const Tensor& dy,
                     const Tensor& gate, const Tensor& up, Stream& stream) {
  RW_ASSERT(gate.rank() == 2, "swiglu_backward: gate is {}", to_string(gate.shape()));
  check_like("swiglu_backward", "gate", gate, gate);
  check_like("swiglu_backward", "up", up, gate);
  check_like("swiglu_backward", "dy", dy, gate);
  check_like("swiglu_backward", "dgate", dgate, gate);
  check_like("swiglu_backward", "dup", dup, gate);
  if (inner.defined()) check_like("swiglu_backward", "inner", inner, gate);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::swiglu_backward(dgate, dup, inner, dy, gate, up, stream);
  }
  cpu::swiglu_backward(dgate, dup, inner, dy, gate, up);
}

}  // namespace rankwise
