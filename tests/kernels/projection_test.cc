// SPDX-License-Identifier: Apache-2.0
#include "kernels/projection.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/matmul.h"
#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_identical;
using testing::GuardedMemory;

constexpr int64_t kOut = 43, kIn = 172;

enum class Factors { kLeft, kRight, kBoth };
constexpr Factors kAllFactors[] = {Factors::kLeft, Factors::kRight, Factors::kBoth};

struct Rig {
  GuardedMemory memory;
  Stream stream;

  Projection projection(Factors factors, int64_t rank, int64_t out = kOut, int64_t in = kIn) {
    Projection made;
    if (factors != Factors::kRight) made.left = memory.normal({out, rank});
    // Another rank on the right, so that the two cannot be confused.
    const int64_t right_rank = factors == Factors::kBoth ? rank + 2 : rank;
    if (factors != Factors::kLeft) made.right = memory.normal({right_rank, in});
    return made;
  }
};

double at(const Tensor& x, int64_t row, int64_t column) {
  return x.data<float>()[row * x.row_stride() + column];
}

// left^T g right^T (or, the way back, left n right) in double.
std::vector<double> reference(const Tensor& g, const Projection& p, bool back) {
  const auto left = [&](int64_t to, int64_t from) {
    if (!p.left.defined()) return to == from ? 1.0 : 0.0;
    return back ? at(p.left, to, from) : at(p.left, from, to);
  };
  const auto right = [&](int64_t from, int64_t to) {
    if (!p.right.defined()) return to == from ? 1.0 : 0.0;
    return back ? at(p.right, from, to) : at(p.right, to, from);
  };
  const int64_t rows = g.dim(0), columns = g.dim(1);
  const int64_t to_rows = p.left.defined() ? p.left.dim(back ? 0 : 1) : rows;
  const int64_t to_columns = p.right.defined() ? p.right.dim(back ? 1 : 0) : columns;
  std::vector<double> inner(static_cast<size_t>(to_rows * columns)), result;
  for (int64_t i = 0; i < to_rows; ++i) {
    for (int64_t k = 0; k < rows; ++k) {
      const double factor = left(i, k);
      for (int64_t j = 0; j < columns; ++j) inner[i * columns + j] += factor * at(g, k, j);
    }
  }
  for (int64_t i = 0; i < to_rows; ++i) {
    for (int64_t j = 0; j < to_columns; ++j) {
      double sum = 0.0;
      for (int64_t k = 0; k < columns; ++k) sum += inner[i * columns + k] * right(k, j);
      result.push_back(sum);
    }
  }
  return result;
}

double norm(const std::vector<double>& x) {
  double squares = 0.0;
  for (const double value : x) squares += value * value;
  return std::sqrt(squares);
}

// ||actual - expected||_F <= 1e-5 ||expected||_F.
void expect_same_matrix(const Tensor& actual, const std::vector<double>& expected,
                        const std::string& what) {
  ASSERT_EQ(static_cast<size_t>(actual.numel()), expected.size());
  std::vector<double> difference = expected;
  for (int64_t i = 0; i < actual.numel(); ++i) {
    difference[static_cast<size_t>(i)] -= at(actual, i / actual.dim(1), i % actual.dim(1));
  }
  EXPECT_LE(norm(difference), 1e-5 * norm(expected)) << what;
}

TEST(Projection, OfADenseGradientAndTheWayBackFollowTheirFormulas) {
  for (const Factors factors : kAllFactors) {
    for (const int64_t rank : {1, 5, 17}) {
      for (const auto& [out, in] : {std::pair{kOut, kIn}, std::pair{kIn, kOut}}) {
        Rig rig;
        const Projection p = rig.projection(factors, rank, out, in);
        const Tensor g = rig.memory.normal({out, in + 3}).columns(2, in + 2);
        const Tensor r = rig.memory.poisoned(p.projected({out, in}));
        project(r, g, p, rig.stream);
        expect_same_matrix(r, reference(g, p, false), "projected");
        const Tensor wide = rig.memory.normal({out, in + 3});
        const Tensor before = rig.memory.copy_of(wide), w = wide.columns(1, in + 1);
        add_back_projection(w, r, p, {.alpha = -0.25f, .keep = 0.875f}, rig.stream);
        std::vector<double> expected = reference(r, p, true);
        for (int64_t i = 0; i < w.numel(); ++i) {
          double& value = expected[static_cast<size_t>(i)];
          value = 0.875 * at(before, i / in, i % in + 1) - 0.25 * value;
        }
        expect_same_matrix(w, expected, "back");
        for (int64_t row = 0; row < out; ++row) {
          for (const int64_t column : {int64_t{0}, in + 1, in + 2}) {
            EXPECT_EQ(at(wide, row, column), at(before, row, column)) << "beside w";
          }
        }
      }
    }
  }
}

TEST(Projection, ByAssociativityEqualsThatOfTheDenseGradient) {
  for (const Factors factors : kAllFactors) {
    for (const int64_t rank : {1, 5, 17}) {
      for (const int64_t tokens : {1, 7, 130}) {
        Rig rig;
        const Projection p = rig.projection(factors, rank);
        const Tensor r = rig.memory.zeros(p.projected({kOut, kIn}));
        const Tensor g = rig.memory.zeros({kOut, kIn});
        for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
          const Tensor dy = rig.memory.normal({tokens, kOut + 5}).columns(5, kOut + 5);
          const Tensor x = rig.memory.normal({tokens, kIn + 1}).columns(0, kIn);
          linear_backward_weight(g, dy, x, rig.stream);
          projected_backward_weight(r, dy, x, p, rig.stream);
        }
        expect_same_matrix(r, reference(g, p, false),
                           fmt::format("rank {}, {} tokens", rank, tokens));
      }
    }
  }
}

TEST(Projection, OfAWorkedExampleLeavesTheWeakerDirection) {
  // G = 3 u e1^T + u2 e2^T with u = (.6, .8) and u2 = (-.8, .6); the basis is u.
  Rig rig;
  const Tensor g = rig.memory.of<float>({2, 3}, {1.8f, -0.8f, 0.0f, 2.4f, 0.6f, 0.0f});
  const Projection p = {.left = rig.memory.of<float>({2, 1}, {0.6f, 0.8f}), .right = {}};
  const Tensor r = rig.memory.poisoned({1, 3});
  project(r, g, p, rig.stream);
  expect_close(r, std::array{3.0, 0.0, 0.0}, 1e-6, 0.0);
  add_back_projection(g, r, p, {.alpha = -1.0f}, rig.stream);
  EXPECT_NEAR(std::sqrt(testing::weighted_sum(g, g)), 1.0, 1e-6);
  // The first step of AdamW without scaled eps: lr .01, scale .25, eps 1e-6, betas .9 and .999.
  const double m = 0.1 * 3.0, root = std::sqrt(0.001) * 3.0;
  const double step = 0.01 * std::sqrt(0.001) / 0.1;
  const Tensor n = rig.memory.of<float>({1, 3}, {static_cast<float>(m / (root + 1e-6)), 0, 0});
  const Tensor w = rig.memory.zeros({2, 3});
  add_back_projection(w, n, p, {.alpha = static_cast<float>(-0.25 * step)}, rig.stream);
  expect_close(w, std::array{-0.00149998, 0.0, 0.0, -0.00199998, 0.0, 0.0}, 1e-8, 0.0);
}

TEST(Projection, NoTokensAddNothing) {
  Rig rig;
  const Projection p = rig.projection(Factors::kBoth, 3);
  const Tensor r = rig.memory.normal(p.projected({kOut, kIn})), before = rig.memory.copy_of(r);
  projected_backward_weight(r, rig.memory.zeros({0, kOut}), rig.memory.zeros({0, kIn}), p,
                            rig.stream);
  expect_identical(r, before);
}

// A weight of 90 MB: copies of the factor and of n in BF16, and 1024 rows of the update.
TEST(Projection, TheWayBackToBf16TakesScratchForABlockOfRows) {
  constexpr Device kGpu{DeviceKind::kCuda, 0};
  constexpr int64_t kMany = 11008, kWidth = 4096, kRank = 1024;
  const auto scratch = [&](DType type) {
    Stream stream(kGpu, Stream::Mode::kMeasure);
    const Projection p{.left = {}, .right = Tensor(nullptr, DType::kF32, {kRank, kWidth}, kGpu)};
    const Rng rng(1, "w");
    add_back_projection(Tensor(nullptr, type, {kMany, kWidth}, kGpu),
                        Tensor(nullptr, DType::kF32, {kMany, kRank}, kGpu), p,
                        {.rng = &rng, .place = {0, kWidth}}, stream);
    return static_cast<int64_t>(stream.scratch_peak_bytes());
  };
  EXPECT_EQ(scratch(DType::kBF16) - scratch(DType::kF32),
            2 * kRank * (kWidth + kMany) + (int64_t{16} << 20));
}

TEST(ProjectionDeathTest, Bf16NeedsRandomBitsAndAPlace) {
  constexpr Device kGpu{DeviceKind::kCuda, 0};
  Stream stream(kGpu, Stream::Mode::kMeasure);
  const Tensor w(nullptr, DType::kBF16, {4, 6}, kGpu), n(nullptr, DType::kF32, {2, 6}, kGpu);
  const Projection p{.left = Tensor(nullptr, DType::kF32, {4, 2}, kGpu), .right = {}};
  const Rng rng(1, "w");
  EXPECT_DEATH(add_back_projection(w, n, p, {.place = {0, 6}}, stream), "no random bits for BF16");
  EXPECT_DEATH(add_back_projection(w, n, p, {.rng = &rng, .place = {0, 5}}, stream), "no place");
}

TEST(ProjectionDeathTest, WrongShapesAreCallerErrors) {
  Rig rig;
  const Projection p = rig.projection(Factors::kLeft, 5);
  const Tensor g = rig.memory.normal({kOut, kIn});
  EXPECT_DEATH(project(rig.memory.zeros({5, kOut}), g, p, rig.stream), "project: projected");
  EXPECT_DEATH(project(rig.memory.zeros({kOut, kIn}), g, {}, rig.stream), "project: no factor");
  EXPECT_DEATH(projected_backward_weight(rig.memory.zeros({5, kIn}), rig.memory.zeros({7, kOut}),
                                         rig.memory.zeros({8, kIn}), p, rig.stream),
               "projected_backward_weight: x");
}

}  // namespace
}  // namespace rankwise
