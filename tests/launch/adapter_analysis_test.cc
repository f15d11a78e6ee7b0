// SPDX-License-Identifier: Apache-2.0
#include "launch/adapter_analysis.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/elementwise.h"
#include "model/adapters/adapter_registry.h"
#include "runtime/rng.h"

namespace rankwise {
namespace {

struct Rig {
  Arena arena;
  Stream stream;

  Tensor matrix(int64_t rows, int64_t columns, const std::vector<float>& values) {
    const Tensor out = arena.allocate("analysis", DType::kF32, {rows, columns});
    RW_ASSERT(std::ssize(values) == rows * columns, "{}", values.size());
    std::ranges::copy(values, out.data<float>());
    return out;
  }
  Tensor random(int64_t rows, int64_t columns, const char* name) {
    std::vector<float> values(static_cast<size_t>(rows * columns));
    Rng(7, name).fill_normal(values, 0.0f, 1.0f);
    return matrix(rows, columns, values);
  }
  std::vector<double> phi(const Tensor& a, const Tensor& b) {
    return subspace_similarity(singular_vectors(a, arena, stream).vt,
                               singular_vectors(b, arena, stream).vt, arena, stream);
  }
  // Of scale 1 unless alpha says otherwise; `m` makes it DoRA.
  Amplification amplify(const Tensor& a, const Tensor& b, const Tensor& w,
                        const std::vector<float>& m = {}, double alpha = 0.0) {
    const LinearSite site = {"layer", w.dim(1), w.dim(0), ShardSpec::replicated()};
    const auto rank = a.dim(0);
    const AdapterOptions options = {
        .method = m.empty() ? AdapterMethod::kLora : AdapterMethod::kDora,
        .rank = rank,
        .alpha = alpha == 0.0 ? static_cast<double>(rank) : alpha,
        .from_folder = true};
    const auto adapter = make_adapter(site, options, 0, arena, stream);
    for (Parameter* parameter : adapter->parameters()) {
      if (parameter->role == ParameterRole::kLoraA) copy(parameter->dense(), a, stream);
      if (parameter->role == ParameterRole::kLoraB) copy(parameter->dense(), b, stream);
      if (parameter->role == ParameterRole::kMagnitude) {
        std::ranges::copy(m, parameter->dense().data<float>());
      }
    }
    return amplification(*adapter, w, arena, stream);
  }
};

TEST(SubspaceSimilarity, SameMatrixGivesOneForAllNestedSubspaces) {
  Rig rig;
  const Tensor a = rig.random(6, 40, "a");
  const std::vector<double> phi = rig.phi(a, a);
  ASSERT_EQ(phi.size(), 36u);
  for (const double value : phi) EXPECT_NEAR(value, 1.0, 1e-5);
}

TEST(SubspaceSimilarity, DoesNotDependOnTheBasisOfTheSubspace) {
  Rig rig;
  // Rows of the second are combinations of those of the first.
  const Tensor a = rig.matrix(2, 3, {3.0f, 0.0f, 0.0f, 0.0f, 1.0f, 0.0f});
  const Tensor b = rig.matrix(2, 3, {1.0f, 2.0f, 0.0f, 5.0f, -1.0f, 0.0f});
  EXPECT_NEAR(rig.phi(a, b).back(), 1.0, 1e-6);
}

TEST(SubspaceSimilarity, OrthogonalSubspacesGiveZero) {
  Rig rig;
  const Tensor a = rig.matrix(2, 4, {3.0f, 0.0f, 0.0f, 0.0f, 0.0f, 2.0f, 0.0f, 0.0f});
  const Tensor b = rig.matrix(2, 4, {0.0f, 0.0f, 3.0f, 0.0f, 0.0f, 0.0f, 1.0f, 5.0f});
  for (const double value : rig.phi(a, b)) EXPECT_NEAR(value, 0.0, 1e-6);
}

TEST(SubspaceSimilarity, PartialOverlapIsTheMeanSquaredCosine) {
  Rig rig;
  const float half = std::sqrt(0.5f);
  const Tensor a = rig.matrix(2, 3, {2.0f, 0.0f, 0.0f, 0.0f, 1.0f, 0.0f});
  const Tensor b = rig.matrix(2, 3, {2.0f, 0.0f, 0.0f, 0.0f, half, half});
  const std::vector<double> phi = rig.phi(a, b);
  EXPECT_NEAR(phi[0], 1.0, 1e-6);
  EXPECT_NEAR(phi[1], 1.0, 1e-6);   // (1, 2): e1 lies in both
  EXPECT_NEAR(phi[3], 0.75, 1e-6);  // (2, 2)
  const Tensor c = rig.matrix(2, 3, {2.0f, 0.0f, 0.0f, 0.0f, 0.0f, 1.0f});
  EXPECT_NEAR(rig.phi(a, c)[3], 0.5, 1e-6);
}

TEST(SubspaceSimilarity, RandomSubspacesGiveTheLargerSizeOverTheDimension) {
  Rig rig;
  const std::vector<double> phi = rig.phi(rig.random(8, 1024, "a"), rig.random(64, 1024, "b"));
  EXPECT_NEAR(phi.back(), 0.0625, 0.01);
}

TEST(SingularVectorsOf, NegligibleDirectionsAreLeftOut) {
  Rig rig;
  const Tensor a = rig.matrix(3, 4,
                              {1.0f, 2.0f, 0.0f, 0.0f, 2.0f, 4.0f, 0.0f, 0.0f,  //
                               0.0f, 0.0f, 1.0f, 0.0f});
  EXPECT_EQ(singular_vectors(a, rig.arena, rig.stream).s.numel(), 2);
  const Tensor zero = rig.matrix(1, 2, {0.0f, 0.0f});
  EXPECT_EQ(singular_vectors(zero, rig.arena, rig.stream).s.numel(), 0);
}

TEST(SingularVectorsOf, AProductHasThoseOfTheMatrixItWouldBe) {
  Rig rig;
  // r may exceed the other dimensions.
  const std::array<int64_t, 3> shapes[] = {{30, 4, 20}, {3, 7, 20}, {20, 7, 3}};
  for (const auto& [m, r, n] : shapes) {
    const Tensor b = rig.random(m, r, "b");
    const Tensor a = rig.random(r, n, "a");
    std::vector<float> values(static_cast<size_t>(m * n), 0.0f);
    for (int64_t i = 0; i < m * n; ++i) {
      for (int64_t k = 0; k < r; ++k) {
        values[static_cast<size_t>(i)] +=
            b.data<float>()[i / n * r + k] * a.data<float>()[k * n + i % n];
      }
    }
    const SingularVectors of_product = singular_vectors(b, a, rig.arena, rig.stream);
    const SingularVectors dense = singular_vectors(rig.matrix(m, n, values), rig.arena, rig.stream);
    ASSERT_EQ(of_product.s.numel(), dense.s.numel());
    for (int64_t i = 0; i < dense.s.numel(); ++i) {
      EXPECT_NEAR(of_product.s.data<float>()[i], dense.s.data<float>()[i], 1e-4);
    }
    const auto phi = subspace_similarity(of_product.vt, dense.vt, rig.arena, rig.stream);
    EXPECT_NEAR(phi.back(), 1.0, 1e-5);
    EXPECT_NEAR(phi.front(), 1.0, 1e-5);
  }
}

TEST(Amplification, OneDirectionOfASmallMatrix) {
  Rig rig;
  // dW = 10 e1 e2^T, e1^T W e2 = 0.5.
  const Tensor w = rig.matrix(2, 2, {2.0f, 0.5f, 1.0f, 4.0f});
  const Tensor a = rig.matrix(1, 2, {0.0f, 2.0f});
  const Tensor b = rig.matrix(2, 1, {1.0f, 0.0f});
  const Amplification result = rig.amplify(a, b, w, {}, /*alpha=*/5.0);
  EXPECT_NEAR(result.change, 10.0, 1e-5);
  EXPECT_NEAR(result.base, 0.5, 1e-6);
  EXPECT_NEAR(result.factor(), 20.0, 1e-4);
}

TEST(Amplification, AMultipleOfTheWeightIsAmplifiedByThatMultiple) {
  Rig rig;
  const Tensor w = rig.random(3, 3, "w");
  const Tensor identity = rig.matrix(3, 3, {3, 0, 0, 0, 3, 0, 0, 0, 3});
  EXPECT_NEAR(rig.amplify(identity, w, w).factor(), 3.0, 1e-4);
}

TEST(Amplification, DoraScalesRowsToTheirMagnitudes) {
  Rig rig;
  // The first row of W + b a is (3, 4), of norm 5, and becomes (6, 8); the second stays.
  const Tensor w = rig.matrix(2, 2, {3.0f, 0.0f, 0.0f, 1.0f});
  const Tensor a = rig.matrix(1, 2, {0.0f, 4.0f});
  const Tensor b = rig.matrix(2, 1, {1.0f, 0.0f});
  // dW = e1 (3, 8)^T, so that U^T W V = 3 * 3 / |(3, 8)|.
  const Amplification result = rig.amplify(a, b, w, {10.0f, 1.0f});
  EXPECT_NEAR(result.change, std::sqrt(73.0), 1e-5);
  EXPECT_NEAR(result.base, 9.0 / std::sqrt(73.0), 1e-5);
}

TEST(Amplification, DoraTakesTheLeadingDirectionsOfAChangeOfFullRank) {
  Rig rig;
  const Tensor w = rig.random(40, 30, "w");
  const Tensor a = rig.random(2, 30, "a");
  const Tensor b = rig.random(40, 2, "b");
  // dW by its definition, and all of its singular vectors.
  const Tensor change = rig.matrix(40, 30, std::vector<float>(1200));
  for (int64_t i = 0; i < 40; ++i) {
    auto* row = change.data<float>() + i * 30;
    double squares = 0.0;
    for (int64_t j = 0; j < 30; ++j) {
      row[j] = w.data<float>()[i * 30 + j] + b.data<float>()[2 * i] * a.data<float>()[j] +
               b.data<float>()[2 * i + 1] * a.data<float>()[30 + j];
      squares += static_cast<double>(row[j]) * row[j];
    }
    for (int64_t j = 0; j < 30; ++j) {
      row[j] = row[j] / static_cast<float>(std::sqrt(squares)) - w.data<float>()[i * 30 + j];
    }
  }
  const SingularVectors exact = singular_vectors(change, rig.arena, rig.stream);
  double base = 0.0;
  for (int64_t n = 0; n < 4; ++n) {
    double sum = 0.0;  // u_p^T W v_q
    for (int64_t i = 0; i < 1200; ++i) {
      sum += static_cast<double>(exact.u.data<float>()[i / 30 * exact.u.row_stride() + n / 2]) *
             w.data<float>()[i] * exact.vt.data<float>()[n % 2 * 30 + i % 30];
    }
    base += sum * sum;
  }
  const Amplification result = rig.amplify(a, b, w, std::vector<float>(40, 1.0f));
  EXPECT_NEAR(result.base, std::sqrt(base), 1e-2 * std::sqrt(base));
}

TEST(Amplification, NoChangeGivesZeros) {
  Rig rig;
  const Tensor w = rig.random(4, 3, "w");
  const Tensor a = rig.random(2, 3, "a");
  const Tensor b = rig.matrix(4, 2, std::vector<float>(8, 0.0f));
  EXPECT_EQ(rig.amplify(a, b, w).change, 0.0);
  std::vector<float> norms(4, 0.0f);
  for (size_t i = 0; i < 4; ++i) {
    for (size_t j = 0; j < 3; ++j) {
      norms[i] += w.data<float>()[3 * i + j] * w.data<float>()[3 * i + j];
    }
    norms[i] = std::sqrt(norms[i]);
  }
  EXPECT_EQ(rig.amplify(a, b, w, norms).change, 0.0);
}

}  // namespace
}  // namespace rankwise
