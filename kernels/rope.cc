// SPDX-License-Identifier: Apache-2.0
#include "kernels/rope.h"

#include "kernels/check.h"
#include "kernels/cpu/rope.h"
#include "kernels/cuda/rope.h"
#include "kernels/dispatch.h"

namespace rankwise {

void rope_tables(const Tensor& cos, const Tensor& sin, const Tensor& positions,
                 const Tensor& inv_freq, Stream& stream) {
  const Shape table{positions.numel(), inv_freq.numel()};
  check::dtype("rope_tables", "positions", positions, DType::kI32);
  check::contiguous("rope_tables", "positions", positions);
  check::f32("rope_tables", "inv_freq", inv_freq, {inv_freq.numel()});
  check::f32("rope_tables", "cos", cos, table);
  check::f32("rope_tables", "sin", sin, table);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::rope_tables(cos, sin, positions, inv_freq, stream);
  }
  cpu::rope_tables(cos, sin, positions, inv_freq);
}

namespace {

void check_turned(const char* op, const Tensor& q, const Tensor& k, const Tensor& cos,
                  const Tensor& sin) {
  RW_ASSERT(q.rank() == 3 && q.dim(2) % 2 == 0, "{}: q is {}", op, to_string(q.shape()));
  RW_ASSERT(k.rank() == 3, "{}: k is {}", op, to_string(k.shape()));
  check::activation(op, "q", q, q.shape());
  check::activation(op, "k", k, {q.dim(0), k.dim(1), q.dim(2)}, q);
  check::f32(op, "cos", cos, {q.dim(0), q.dim(2) / 2});
  check::f32(op, "sin", sin, {q.dim(0), q.dim(2) / 2});
}

void check_forward(const Tensor& x, const ColumnDots& to, const Tensor& dx) {
  if (!to.defined()) return;
  check::activation("rope_backward", "output of rope", x, dx.shape(), dx);
  check_column_dots("rope_backward", to, dx.dim(1) * dx.dim(2));
}

}  // namespace

void rope(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin, Stream& stream) {
  check_turned("rope", q, k, cos, sin);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::rope(q, k, cos, sin, stream);
  }
  cpu::rope(q, cos, sin, /*inverse=*/false);
  cpu::rope(k, cos, sin, /*inverse=*/false);
}

void rope_backward(const Tensor& dq, const Tensor& dk, const Tensor& cos, const Tensor& sin,
                   const RopeForward& forward, Stream& stream) {
  check_turned("rope_backward", dq, dk, cos, sin);
  check_forward(forward.q, forward.q_dots, dq);
  check_forward(forward.k, forward.k_dots, dk);
  if constexpr (kHasCuda) {  // dots take scratch memory: also when measuring
    if (stream.is_cuda()) return cuda::rope_backward(dq, dk, cos, sin, forward, stream);
  }
  if (stream.measuring()) return;
  cpu::rope_backward(dq, cos, sin, forward.q, forward.q_dots, stream);
  cpu::rope_backward(dk, cos, sin, forward.k, forward.k_dots, stream);
}

}  // namespace rankwise
