// SPDX-License-Identifier: Apache-2.0
#include "kernels/elementwise.h"

#include "kernels/check.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cuda/elementwise.h"

namespace rankwise {
namespace {

void check_equal_sizes(std::string_view op, const Tensor& y, const Tensor& x) {
  RW_ASSERT(y.numel() == x.numel(), "{}: y {}, x {}", op, to_string(y.shape()),
            to_string(x.shape()));
}

// y and x are activations of equal size.
void check_activations(std::string_view op, const Tensor& y, const Tensor& x) {
  check::activation(op, "x", x, x.shape());
  check::activation(op, "y", y, y.shape());
  check_equal_sizes(op, y, x);
}

}  // namespace

void fill(const Tensor& x, float value, Stream& stream) {
  if (value != 0.0f) check::dtype("fill", "x (value is not 0)", x, DType::kF32);
  check::contiguous("fill", "x", x);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::fill(x, value, stream);
  }
  cpu::fill(x, value);
}

void copy(const Tensor& y, const Tensor& x, Stream& stream) {
  check::dtype("copy", "y", y, x.dtype());
  if (x.is_contiguous() && y.is_contiguous()) {
    check_equal_sizes("copy", y, x);
  } else {
    check_activations("copy", y, x);
  }
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::copy(y, x, stream);
  }
  cpu::copy(y, x);
}

void cast(const Tensor& y, const Tensor& x, Stream& stream) {
  RW_ASSERT(stream.is_cuda(), "cast: the CPU computes in F32");
  check_activations("cast", y, x);
  check::contiguous("cast", "x", x);
  check::contiguous("cast", "y", y);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) cuda::cast(y, x, stream);
}

void add(const Tensor& y, const Tensor& x, Stream& stream) {
  check_activations("add", y, x);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::add(y, x, stream);
  }
  cpu::add(y, x);
}

void scale(const Tensor& x, float factor, Stream& stream) {
  check::f32("scale", "x", x, x.shape());
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::scale(x, factor, stream);
  }
  cpu::scale(x, factor);
}

void add_bias(const Tensor& y, const Tensor& bias, Stream& stream) {
  RW_ASSERT(y.rank() == 2, "add_bias: y is {}", to_string(y.shape()));
  check::activation("add_bias", "y", y, y.shape());
  check::f32("add_bias", "bias", bias, {y.dim(1)});
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::add_bias(y, bias, stream);
  }
  cpu::add_bias(y, bias);
}

void bias_backward(const Tensor& dbias, const Tensor& dy, Stream& stream) {
  RW_ASSERT(dy.rank() == 2, "bias_backward: dy is {}", to_string(dy.shape()));
  check::activation("bias_backward", "dy", dy, dy.shape());
  check::f32("bias_backward", "dbias", dbias, {dy.dim(1)});
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::bias_backward(dbias, dy, stream);
  }
  if (stream.measuring()) return;
  cpu::bias_backward(dbias, dy, stream);
}

void sum_of_squares(const Tensor& sum, std::span<const Tensor> xs, Stream& stream) {
  check::dtype("sum_of_squares", "sum", sum, DType::kF64);
  check::shape("sum_of_squares", "sum", sum, {1});
  for (const Tensor& x : xs) check::f32("sum_of_squares", "x", x, x.shape());
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::sum_of_squares(sum, xs, stream);
  }
  if (stream.measuring()) return;
  for (const Tensor& x : xs) cpu::sum_of_squares(sum, x);
}

void dropout(const Tensor& y, const Tensor& x, float p, const Rng& rng, const MaskPlace& place,
             Stream& stream) {
  RW_ASSERT(p >= 0.0f && p < 1.0f, "dropout: p {}", p);
  RW_ASSERT(x.rank() == 2 && place.width >= x.dim(1), "dropout: x {} of width {}",
            to_string(x.shape()), place.width);
  check::activation("dropout", "x", x, x.shape());
  check::activation("dropout", "y", y, x.shape());
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::dropout(y, x, p, rng, place, stream);
  }
  cpu::dropout(y, x, p, rng, place);
}

void fill_normal(const Tensor& x, float mean, float stddev, const Rng& rng, Stream& stream) {
  check::activation("fill_normal", "x", x, x.shape());
  check::contiguous("fill_normal", "x", x);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::fill_normal(x, mean, stddev, rng, stream);
  }
  rng.fill_normal({x.data<float>(), static_cast<size_t>(x.numel())}, mean, stddev);
}

void fill_random_bytes(const Tensor& x, const Rng& rng, Stream& stream) {
  check::dtype("fill_random_bytes", "x", x, DType::kU8);
  check::contiguous("fill_random_bytes", "x", x);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::fill_random_bytes(x, rng, stream);
  }
  cpu::fill_random_bytes(x, rng);
}

}  // namespace rankwise
