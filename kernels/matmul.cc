// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <string_view>

#include "kernels/check.h"
#include "kernels/cpu/matmul.h"
#include "kernels/dispatch.h"

namespace rankwise {
namespace {

// F32 of this shape; a block of columns of a wider matrix is fine.
void check_matrix(std::string_view op, std::string_view argument, const Tensor& actual,
                  const Shape& expected) {
  check::dtype(op, argument, actual, DType::kF32);
  check::shape(op, argument, actual, expected);
}

void check_rank_2(std::string_view op, std::string_view argument, const Tensor& actual) {
  RW_ASSERT(actual.defined() && actual.rank() == 2, "{}: {} has shape {}, expected rank 2", op,
            argument, to_string(actual.shape()));
}

void check_weight(std::string_view op, const Weight& w) {
  if (const auto* quantized = std::get_if<QuantizedTensor>(&w)) {
    check::nf4(op, *quantized);
  } else {
    check_rank_2(op, "w", std::get<Tensor>(w));
    check::dtype(op, "w", std::get<Tensor>(w), DType::kF32);
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
  check_matrix("matmul", "a", a, params.transpose_a ? Shape{k, m} : Shape{m, k});
  check_matrix("matmul", "b", b, params.transpose_b ? Shape{n, k} : Shape{k, n});
  check_matrix("matmul", "c", c, {m, n});
  if (stream.measuring()) return;
  require_cpu(stream);
  cpu::matmul(c, a, b, params);
}

void linear(const Tensor& y, const Tensor& x, const Weight& w, float beta, Stream& stream) {
  check_weight("linear", w);
  check_rank_2("linear", "x", x);
  check_matrix("linear", "x", x, {x.dim(0), shape_of(w).dim(1)});
  check_matrix("linear", "y", y, {x.dim(0), shape_of(w).dim(0)});
  if (stream.measuring()) return;
  require_cpu(stream);
  if (const auto* quantized = std::get_if<QuantizedTensor>(&w)) {
    cpu::linear_nf4(y, x, *quantized, beta, stream);
  } else {
    cpu::matmul(y, x, std::get<Tensor>(w), {.transpose_b = true, .beta = beta});
  }
}

void linear_backward_input(const Tensor& dx, const Tensor& dy, const Weight& w, float beta,
                           Stream& stream) {
  check_weight("linear_backward_input", w);
  check_rank_2("linear_backward_input", "dy", dy);
  check_matrix("linear_backward_input", "dy", dy, {dy.dim(0), shape_of(w).dim(0)});
  check_matrix("linear_backward_input", "dx", dx, {dy.dim(0), shape_of(w).dim(1)});
  if (stream.measuring()) return;
  require_cpu(stream);
  if (const auto* quantized = std::get_if<QuantizedTensor>(&w)) {
    cpu::linear_nf4_backward_input(dx, dy, *quantized, beta, stream);
  } else {
    cpu::matmul(dx, dy, std::get<Tensor>(w), {.beta = beta});
  }
}

void linear_backward_weight(const Tensor& dw, const Tensor& dy, const Tensor& x, Stream& stream) {
  matmul(dw, dy, x, {.transpose_a = true, .beta = 1.0f}, stream);
}

const char* cpu_matmul_library() { return cpu::matmul_library(); }

}  // namespace rankwise
