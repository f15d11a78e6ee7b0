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

void rope(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin, bool inverse,
          Stream& stream) {
  RW_ASSERT(q.rank() == 3 && q.dim(2) % 2 == 0, "rope: q is {}", to_string(q.shape()));
  RW_ASSERT(k.rank() == 3, "rope: k is {}", to_string(k.shape()));
  check::activation("rope", "q", q, q.shape());
  check::activation("rope", "k", k, {q.dim(0), k.dim(1), q.dim(2)}, q);
  check::f32("rope", "cos", cos, {q.dim(0), q.dim(2) / 2});
  check::f32("rope", "sin", sin, {q.dim(0), q.dim(2) / 2});
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::rope(q, k, cos, sin, inverse, stream);
  }
  cpu::rope(q, cos, sin, inverse);
  cpu::rope(k, cos, sin, inverse);
}

}  // namespace rankwise
