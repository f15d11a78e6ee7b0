// SPDX-License-Identifier: Apache-2.0
#include "kernels/row_norms.h"

#include <string_view>

#include "kernels/check.h"
#include "kernels/cpu/row_norms.h"
#include "kernels/cuda/row_norms.h"
#include "kernels/dispatch.h"

namespace rankwise {
namespace {

void check_weight(std::string_view op, const Weight& w, const Stream& stream) {
  if (const auto* quantized = std::get_if<QuantizedTensor>(&w)) return check::nf4(op, *quantized);
  const auto& dense = std::get<Tensor>(w);
  RW_ASSERT(dense.defined() && dense.rank() == 2, "{}: w {}", op, to_string(dense.shape()));
  RW_ASSERT(dense.dtype() == DType::kF32 || (dense.dtype() == DType::kBF16 && stream.is_cuda()),
            "{}: w is {}", op, name_of(dense.dtype()));
}

constexpr std::string_view kRowSquares = "row_squares";

void check_matrix(const RowSquares& matrix, const Stream& stream) {
  const LowRankLinear& layer = matrix.layer;
  RW_ASSERT(layer.weight != nullptr && layer.rank() > 0 && !layer.e.defined(),
            "{}: no weight, no low-rank term, or an e", kRowSquares);
  check_weight(kRowSquares, *layer.weight, stream);
  check::f32(kRowSquares, "squares", matrix.squares, {layer.out()});
  check::f32(kRowSquares, "base", matrix.base, {layer.out()});
  check::dtype(kRowSquares, "a", layer.a, DType::kF32);
  check::shape(kRowSquares, "a", layer.a, {layer.rank(), layer.in()});
  check::f32(kRowSquares, "b", layer.b, {layer.out(), layer.rank()});
}

// Vectors F32 of one length.
void check_vectors(std::string_view op, const Tensor& a, const Tensor& b, const Tensor& c) {
  for (const Tensor* x : {&a, &b, &c}) check::f32(op, "a vector", *x, {a.numel()});
}

}  // namespace

void base_row_squares(const Tensor& squares, const Weight& w, Stream& stream) {
  check_weight("base_row_squares", w, stream);
  check::f32("base_row_squares", "squares", squares, {shape_of(w).dim(0)});
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::base_row_squares(squares, w, stream);
  }
  if (stream.measuring()) return;
  cpu::base_row_squares(squares, w, stream);
}

void row_squares(std::span<const RowSquares> matrices, DType compute, Stream& stream) {
  RW_ASSERT(compute == DType::kF32 || (compute == DType::kBF16 && stream.is_cuda()),
            "{}: products in {}", kRowSquares, name_of(compute));
  for (const RowSquares& matrix : matrices) check_matrix(matrix, stream);
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::row_squares(matrices, compute, stream);
  }
  if (stream.measuring()) return;
  for (const RowSquares& matrix : matrices) cpu::row_squares(matrix, stream);
}

void square_roots(const Tensor& norms, const Tensor& squares, Stream& stream) {
  check_vectors("square_roots", norms, squares, squares);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::square_roots(norms, squares, stream);
  }
  cpu::square_roots(norms, squares);
}

void magnitude_factors(const Tensor& c, const Tensor& m, const Tensor& squares, Stream& stream) {
  check_vectors("magnitude_factors", c, m, squares);
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::magnitude_factors(c, m, squares, stream);
  }
  cpu::magnitude_factors(c, m, squares);
}

void set_row_norms(const Tensor& w, const Tensor& m, Stream& stream) {
  RW_ASSERT(w.defined() && w.rank() == 2, "set_row_norms: w {}", to_string(w.shape()));
  check::f32("set_row_norms", "w", w, w.shape());
  check::f32("set_row_norms", "m", m, {w.dim(0)});
  if (stream.measuring()) return;
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::set_row_norms(w, m, stream);
  }
  cpu::set_row_norms(w, m);
}

}  // namespace rankwise
