// SPDX-License-Identifier: Apache-2.0
#include "kernels/svd.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "runtime/arena.h"
#include "runtime/rng.h"

namespace rankwise {
namespace {

struct Decomposition {
  Arena arena;
  Tensor a, u, s, vt;

  Decomposition(int64_t m, int64_t n, std::vector<float> values) {
    const int64_t k = std::min(m, n);
    a = arena.allocate("test", DType::kF32, {m, n});
    u = arena.allocate("test", DType::kF32, {m, k});
    s = arena.allocate("test", DType::kF32, {k});
    vt = arena.allocate("test", DType::kF32, {k, n});
    std::ranges::copy(values, a.data<float>());
    Stream stream;
    svd(u, s, vt, a, stream);
    EXPECT_TRUE(std::ranges::equal(values, std::span(a.data<float>(), values.size())))
        << "the input changed";
  }

  double rebuilt(int64_t row, int64_t column) const {
    double sum = 0.0;
    for (int64_t i = 0; i < s.numel(); ++i) {
      sum += static_cast<double>(u.data<float>()[row * s.numel() + i]) * s.data<float>()[i] *
             vt.data<float>()[i * a.dim(1) + column];
    }
    return sum;
  }
};

std::vector<float> normal_values(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  Rng(1, "svd").fill_normal(values, 0.0f, 1.0f);
  return values;
}

double dot(const float* a, const float* b, int64_t count, int64_t stride) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i * stride]) * b[i * stride];
  return sum;
}

TEST(Svd, TallWideAndSquareMatricesAreRebuiltFromOrthonormalFactors) {
  const std::pair<int64_t, int64_t> shapes[] = {{70, 6}, {6, 70}, {9, 9}, {1, 5}, {5, 1}, {1, 1}};
  for (const auto& [m, n] : shapes) {
    const Decomposition d(m, n, normal_values(m * n));
    const int64_t k = d.s.numel();
    for (int64_t i = 0; i < m * n; ++i) {
      ASSERT_NEAR(d.rebuilt(i / n, i % n), d.a.data<float>()[i], 2e-5) << m << "x" << n << " " << i;
    }
    for (int64_t i = 0; i < k; ++i) {
      ASSERT_TRUE(i == 0 || d.s.data<float>()[i] <= d.s.data<float>()[i - 1]);
      for (int64_t j = 0; j < k; ++j) {
        const double expected = i == j ? 1.0 : 0.0;
        ASSERT_NEAR(dot(d.vt.data<float>() + i * n, d.vt.data<float>() + j * n, n, 1), expected,
                    1e-5);
        ASSERT_NEAR(dot(d.u.data<float>() + i, d.u.data<float>() + j, m, k), expected, 1e-5);
      }
    }
  }
}

TEST(Svd, SingularValuesOfAKnownMatrix) {
  // a a^T = [[25, 20], [20, 25]]: eigenvalues 45 and 5.
  const Decomposition d(2, 2, {3.0f, 4.0f, 0.0f, 5.0f});
  EXPECT_NEAR(d.s.data<float>()[0], std::sqrt(45.0), 1e-5);
  EXPECT_NEAR(d.s.data<float>()[1], std::sqrt(5.0), 1e-5);
}

TEST(Svd, MatrixOfZerosHasOrthonormalVectorsAllTheSame) {
  const Decomposition d(3, 2, std::vector<float>(6, 0.0f));
  EXPECT_EQ(d.s.data<float>()[0], 0.0f);
  EXPECT_NEAR(dot(d.vt.data<float>(), d.vt.data<float>(), 2, 1), 1.0, 1e-6);
}

}  // namespace
}  // namespace rankwise
