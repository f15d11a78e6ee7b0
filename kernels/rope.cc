// SPDX-License-Identifier: Apache-2.0
#include "kernels/rope.h"

#include "kernels/check.h"
#include "kernels/cpu/rope.h"
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
  require_cpu(stream);
  cpu::rope_tables(cos, sin, positions, inv_freq);
}

void rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool inverse, Stream& stream) {
  RW_ASSERT(x.rank() == 3 && x.dim(2) % 2 == 0, "rope: x is {}", to_string(x.shape()));
  check::f32("rope", "x", x, x.shape());
  check::f32("rope", "cos", cos, {x.dim(0), x.dim(2) / 2});
  check::f32("rope", "sin", sin, {x.dim(0), x.dim(2) / 2});
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::rope(x, cos, sin, inverse);
}

}  // namespace rankwise
