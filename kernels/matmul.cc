// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <string_view>

#include "kernels/check.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cuda/matmul.h"

namespace rankwise {
namespace {

// Of this shape, F32 or on CUDA BF16; a block of columns of a wider matrix is fine.
void check_matrix(std::string_view op, std::string_view argument, const Tensor& actual,
                  const Shape& expected, const Stream& stream) {
  if (!stream.is_cuda() || actual.dtype() != DType::kBF16) {
    check::dtype(op, argument, actual, DType::kF32);
  }
  check::shape(op, argument, actual, expected);
}

void check_rank_2(std::string_view op, std::string_view argument, const Tensor& actual) {
  RW_ASSERT(actual.defined() && actual.rank() == 2, "{}: {} has shape {}, expected rank 2", op,
            argument, to_string(actual.shape()));
}

void check_same_type(std::string_view op, const Tensor& a, const Tensor& b) {
  RW_ASSERT(a.dtype() == b.dtype(), "{}: operands are {} and {}", op, name_of(a.dtype()),
            name_of(b.dtype()));
}

void check_weight(std::string_view op, const Weight& w, const Stream& stream) {
  if (const auto* quantized = std::get_if<QuantizedTensor>(&w)) {
    check::nf4(op, *quantized);
  } else {
    const Tensor& dense = std::get<Tensor>(w);
    check_rank_2(op, "w", dense);
    check_matrix(op, "w", dense, dense.shape(), stream);
  }
}

}  // namespace

void matmul(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulParams& params,
            Stream& stream) {
  check_rank_2("matmul", "a", a);
  check_rank_2("matmul", "b", b);
  const int64_t m = a.dim(params.transpose_a ? 1 : 0);
  const int64_t k = a.dim(params.transpose_a ? 0 : 1);
  const int64_t n = b.dim(params.transpose_b ? 0 : 1);
  check_matrix("matmul", "a", a, params.transpose_a ? Shape{k, m} : Shape{m, k}, stream);
  check_matrix("matmul", "b", b, params.transpose_b ? Shape{n, k} : Shape{k, n}, stream);
  check_matrix("matmul", "c", c, {m, n}, stream);
  check_same_type("matmul", a, b);
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::matmul(c, a, b, params, stream);
  }
  if (stream.measuring()) return;
  cpu::matmul(c, a, b, params);
}

void linear(const Tensor& y, const Tensor& x, const Weight& w, float beta, Stream& stream) {
  check_weight("linear", w, stream);
  check_rank_2("linear", "x", x);
  check_matrix("linear", "x", x, {x.dim(0), shape_of(w).dim(1)}, stream);
  check_matrix("linear", "y", y, {x.dim(0), shape_of(w).dim(0)}, stream);
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::linear(y, x, w, beta, stream);
  }
  if (stream.measuring()) return;
  cpu::linear(y, x, w, nullptr, beta, stream);
}

void linear_backward_input(const Tensor& dx, const Tensor& dy, const Weight& w, float beta,
                           Stream& stream) {
  check_weight("linear_backward_input", w, stream);
  check_rank_2("linear_backward_input", "dy", dy);
  check_matrix("linear_backward_input", "dy", dy, {dy.dim(0), shape_of(w).dim(0)}, stream);
  check_matrix("linear_backward_input", "dx", dx, {dy.dim(0), shape_of(w).dim(1)}, stream);
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::linear_backward_input(dx, dy, w, beta, stream);
  }
  if (stream.measuring()) return;
  cpu::linear_backward_input(dx, dy, w, nullptr, beta, stream);
}

void linear_backward_weight(const Tensor& dw, const Tensor& dy, const Tensor& x, Stream& stream) {
  matmul(dw, dy, x, {.transpose_a = true, .beta = 1.0f}, stream);
}

void set_matmul_tuning([[maybe_unused]] Stream& stream, [[maybe_unused]] bool enabled) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda() && !stream.measuring()) cuda::set_matmul_tuning(stream, enabled);
  }
}

const char* cpu_matmul_library() { return cpu::matmul_library(); }

}  // namespace rankwise
