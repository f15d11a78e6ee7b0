// SPDX-License-Identifier: Apache-2.0
#include "launch/adapter_analysis.h"

#include <algorithm>
#include <cmath>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/svd.h"
#include "model/adapters/low_rank_adapter.h"

namespace rankwise {
namespace {

constexpr float kNegligible = 1e-5f;  // of the largest singular value: rounding
constexpr int64_t kExtraVectors = 8;  // subspace iteration converges on more than is wanted
constexpr int kSweeps = 12;
constexpr double kRounding = 1e-6;  // of ||W||_F: a DoRA change that is none

Tensor matrix(int64_t rows, int64_t columns, Arena& arena) {
  return arena.allocate("analysis", DType::kF32, {rows, columns});
}

// Room for those of a.
SingularVectors thin_vectors(const Tensor& a, Arena& arena) {
  const int64_t k = std::min(a.dim(0), a.dim(1));
  return {matrix(a.dim(0), k, arena), arena.allocate("analysis", DType::kF32, {k}),
          matrix(k, a.dim(1), arena)};
}

SingularVectors thin_svd(const Tensor& a, Arena& arena, Stream& stream) {
  const SingularVectors out = thin_vectors(a, arena);
  svd(out.u, out.s, out.vt, a, stream);
  return out;
}

Tensor product(const Tensor& a, const Tensor& b, const MatmulParams& params, Arena& arena,
               Stream& stream) {
  const Tensor out =
      matrix(a.dim(params.transpose_a ? 1 : 0), b.dim(params.transpose_b ? 0 : 1), arena);
  matmul(out, a, b, params, stream);
  return out;
}

double norm(const Tensor& x, Arena& arena, Stream& stream) {
  const Tensor sum = arena.allocate("analysis", DType::kF64, {1});
  *sum.data<double>() = 0.0;
  sum_of_squares(sum, {&x, 1}, stream);
  return std::sqrt(*sum.data<double>());
}

SingularVectors leading(const SingularVectors& all, int64_t count) {
  return {all.u.columns(0, count), all.s.rows(0, count), all.vt.rows(0, count)};
}

SingularVectors without_negligible(const SingularVectors& all) {
  const auto* s = all.s.data<float>();
  const float least = std::max(kNegligible * s[0], std::numeric_limits<float>::min());
  return leading(all, std::count_if(s, s + all.s.numel(), [&](float v) { return v >= least; }));
}

Tensor parameter_of(Adapter& adapter, ParameterRole role) {
  for (const Parameter* parameter : adapter.parameters()) {
    if (parameter->role == role) return parameter->dense();
  }
  return {};
}

Tensor merged_change(const Adapter& adapter, const Tensor& w, Arena& arena, Stream& stream) {
  const Tensor change = matrix(w.dim(0), w.dim(1), arena);
  copy(change, w, stream);
  adapter.merge_into(change, stream);
  for (int64_t i = 0; i < w.numel(); ++i) change.data<float>()[i] -= w.data<float>()[i];
  return change;
}

// The `count` leading ones of a dense matrix, by subspace iteration.
SingularVectors leading_vectors(const Tensor& a, int64_t count, Arena& arena, Stream& stream) {
  const int64_t width = std::min({count + kExtraVectors, a.dim(0), a.dim(1)});
  const Tensor av = matrix(a.dim(0), width, arena);
  const Tensor ua = matrix(width, a.dim(1), arena);
  const SingularVectors left = thin_vectors(av, arena);
  const SingularVectors right = thin_vectors(ua, arena);
  fill_normal(right.vt, 0.0f, 1.0f, Rng(0, "leading_vectors"), stream);
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    matmul(av, a, right.vt, {.transpose_b = true}, stream);
    svd(left.u, left.s, left.vt, av, stream);
    matmul(ua, left.u, a, {.transpose_a = true}, stream);
    svd(right.u, right.s, right.vt, ua, stream);
  }
  const SingularVectors all = singular_vectors(left.u, ua, arena, stream);
  return leading(all, std::min(count, all.s.numel()));
}

}  // namespace

SingularVectors singular_vectors(const Tensor& a, Arena& arena, Stream& stream) {
  return without_negligible(thin_svd(a, arena, stream));
}

SingularVectors singular_vectors(const Tensor& b, const Tensor& a, Arena& arena, Stream& stream) {
  // a = P diag(p) Q^T, (b P diag(p)) = U S R^T, hence b a = U S (Q R)^T.
  const SingularVectors right = thin_svd(a, arena, stream);
  const Tensor left = product(b, right.u, {}, arena, stream);  // (m, k)
  const int64_t k = left.dim(1);
  for (int64_t i = 0; i < left.numel(); ++i) {
    left.data<float>()[i] *= right.s.data<float>()[i % k];
  }
  const SingularVectors inner = thin_svd(left, arena, stream);
  return without_negligible({inner.u, inner.s, product(inner.vt, right.vt, {}, arena, stream)});
}

Tensor input_directions(Adapter& adapter, Arena& arena) {
  const Tensor a = parameter_of(adapter, ParameterRole::kLoraA);
  const Tensor e = parameter_of(adapter, ParameterRole::kLoraE);
  const Tensor out = matrix(a.dim(0), a.dim(1), arena);
  for (int64_t i = 0; i < a.numel(); ++i) {
    const float factor = e.defined() ? e.data<float>()[i / a.dim(1)] : 1.0f;
    out.data<float>()[i] = factor * a.data<float>()[i];
  }
  return out;
}

std::vector<double> subspace_similarity(const Tensor& v, const Tensor& w, Arena& arena,
                                        Stream& stream) {
  const Tensor cosines = product(v, w, {.transpose_b = true}, arena, stream);
  const int64_t rows = cosines.dim(0);
  const int64_t columns = cosines.dim(1);
  std::vector<double> sums(static_cast<size_t>(columns), 0.0);  // of squares, columns up to j
  std::vector<double> phi;
  for (int64_t i = 0; i < rows; ++i) {
    double row = 0.0;
    for (int64_t j = 0; j < columns; ++j) {
      const double cosine = cosines.data<float>()[i * columns + j];
      row += cosine * cosine;
      double& sum = sums[static_cast<size_t>(j)];
      sum += row;
      phi.push_back(sum / static_cast<double>(std::min(i, j) + 1));
    }
  }
  return phi;
}

Amplification amplification(Adapter& adapter, const Tensor& w, Arena& arena, Stream& stream) {
  SingularVectors vectors;
  Amplification out;
  if (parameter_of(adapter, ParameterRole::kMagnitude).defined()) {
    const Tensor change = merged_change(adapter, w, arena, stream);
    out.change = norm(change, arena, stream);
    if (out.change <= kRounding * norm(w, arena, stream)) return {};
    vectors = leading_vectors(change, adapter.rank(), arena, stream);
  } else {
    vectors = singular_vectors(parameter_of(adapter, ParameterRole::kLoraB),
                               input_directions(adapter, arena), arena, stream);
    if (vectors.s.numel() == 0) return {};
    out.change = dynamic_cast<LowRankAdapter&>(adapter).scale() * norm(vectors.s, arena, stream);
  }
  const Tensor wv = product(w, vectors.vt, {.transpose_b = true}, arena, stream);  // (out, r)
  out.base = norm(product(vectors.u, wv, {.transpose_a = true}, arena, stream), arena, stream);
  return out;
}

}  // namespace rankwise
