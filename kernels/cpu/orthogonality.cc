// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/orthogonality.h"

#include <cmath>

#include "kernels/cpu/matmul.h"

namespace rankwise::cpu {
namespace {

// M of the term into m (r, r); returns ||M||_F.
double deviation(const Tensor& m, const OrthogonalityTerm& term) {
  cpu::matmul(m, term.p, term.p, {.transpose_a = term.columns, .transpose_b = !term.columns});
  double squares = 0.0;
  auto* values = m.data<float>();
  for (int64_t i = 0; i < m.numel(); ++i) {
    if (i % (term.r() + 1) == 0) values[i] -= 1.0f;
    squares += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  }
  return std::sqrt(squares);
}

}  // namespace

void orthogonality(const Tensor& sum, std::span<const OrthogonalityTerm> terms, float weight,
                   Stream& stream) {
  double total = 0.0;
  for (const OrthogonalityTerm& term : terms) {
    const Shape shape = {term.r(), term.r()};
    const Tensor m(stream.scratch(static_cast<size_t>(shape.numel()) * sizeof(float)), DType::kF32,
                   shape);
    const double norm = deviation(m, term);
    total += norm;
    if (norm == 0.0) continue;
    cpu::matmul(term.gradient, term.columns ? term.p : m, term.columns ? m : term.p,
                {.alpha = static_cast<float>(2.0 * weight / norm), .beta = 1.0f});
  }
  *sum.data<double>() += total;
}

}  // namespace rankwise::cpu
