// SPDX-License-Identifier: Apache-2.0
#include "kernels/elementwise.h"

#include "kernels/check.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/dispatch.h"

namespace rankwise {

void fill(const Tensor& x, float value, Stream& stream) {
  if (value != 0.0f) check::dtype("fill", "x (value is not 0)", x, DType::kF32);
  check::contiguous("fill", "x", x);
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::fill(x, value);
}

void copy(const Tensor& y, const Tensor& x, Stream& stream) {
  check::contiguous("copy", "x", x);
  check::contiguous("copy", "y", y);
  check::dtype("copy", "y", y, x.dtype());
  RW_ASSERT(y.numel() == x.numel(), "copy: y {}, x {}", to_string(y.shape()), to_string(x.shape()));
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::copy(y, x);
}

void add(const Tensor& y, const Tensor& x, Stream& stream) {
  check::f32("add", "x", x, x.shape());
  check::f32("add", "y", y, y.shape());
  RW_ASSERT(y.numel() == x.numel(), "add: y {}, x {}", to_string(y.shape()), to_string(x.shape()));
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::add(y, x);
}

void scale(const Tensor& x, float factor, Stream& stream) {
  check::f32("scale", "x", x, x.shape());
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::scale(x, factor);
}

void add_bias(const Tensor& y, const Tensor& bias, Stream& stream) {
  RW_ASSERT(y.rank() == 2, "add_bias: y is {}", to_string(y.shape()));
  check::f32("add_bias", "y", y, y.shape());
  check::f32("add_bias", "bias", bias, {y.dim(1)});
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::add_bias(y, bias);
}

void bias_backward(const Tensor& dbias, const Tensor& dy, Stream& stream) {
  RW_ASSERT(dy.rank() == 2, "bias_backward: dy is {}", to_string(dy.shape()));
  check::f32("bias_backward", "dy", dy, dy.shape());
  check::f32("bias_backward", "dbias", dbias, {dy.dim(1)});
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::bias_backward(dbias, dy, stream);
}

void sum_of_squares(const Tensor& sum, const Tensor& x, Stream& stream) {
  check::dtype("sum_of_squares", "sum", sum, DType::kF64);
  check::shape("sum_of_squares", "sum", sum, {1});
  check::f32("sum_of_squares", "x", x, x.shape());
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::sum_of_squares(sum, x);
}

void dropout(const Tensor& y, const Tensor& x, float p, const Rng& rng, uint64_t first_index,
             Stream& stream) {
  RW_ASSERT(p >= 0.0f && p < 1.0f, "dropout: p {}", p);
  check::f32("dropout", "x", x, x.shape());
  check::f32("dropout", "y", y, x.shape());
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::dropout(y, x, p, rng, first_index);
}

}  // namespace rankwise
