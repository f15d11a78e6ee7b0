// SPDX-License-Identifier: Apache-2.0
#include "kernels/row_norms.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/column_dots.h"
#include "tests/kernels/nf4_slices.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_identical;
using testing::GuardedMemory;
using testing::slice_of;
using testing::WholeNf4;

// Squares of the norms of the rows of V, which is formed.
std::vector<double> squares_of(const Tensor& w, const LowRankLinear& layer) {
  std::vector<double> squares;
  for (int64_t i = 0; i < layer.out(); ++i) {
    double sum = 0.0;
    for (int64_t j = 0; j < layer.in(); ++j) {
      double v = w.data<float>()[i * layer.in() + j];
      for (int64_t k = 0; k < layer.rank(); ++k) {
        v += static_cast<double>(layer.scale) * layer.b.data<float>()[i * layer.rank() + k] *
             layer.a.data<float>()[k * layer.a.row_stride() + j];
      }
      sum += v * v;
    }
    squares.push_back(sum);
  }
  return squares;
}

Tensor squares_by_kernels(const LowRankLinear& layer, GuardedMemory& memory) {
  Stream stream;
  const Tensor base = memory.poisoned({layer.out()}), squares = memory.poisoned({layer.out()});
  base_row_squares(base, *layer.weight, stream);
  const RowSquares matrix{squares, base, layer};
  row_squares({&matrix, 1}, DType::kF32, stream);
  return squares;
}

// A change as large as the weights, which are of the size 0.05 here.
LowRankLinear with_terms(const Weight& weight, int64_t rank, GuardedMemory& memory) {
  const int64_t out = shape_of(weight).dim(0), in = shape_of(weight).dim(1);
  const float size = 1.0f / std::sqrt(static_cast<float>(rank));
  return {&weight, memory.normal({rank, in}, 0.2f), memory.normal({out, rank}, size), 0.25f};
}

TEST(RowNorms, FactorsAndGradientEqualAWorkedExample) {
  GuardedMemory memory;
  Stream stream;
  const Weight w = memory.of<float>({2, 2}, {3, 4, 1, 0});
  const LowRankLinear layer{&w, memory.of<float>({1, 2}, {1, 1}), memory.of<float>({2, 1}, {.5, 1}),
                            2.0f};
  const Tensor squares = squares_by_kernels(layer, memory);
  const Tensor norms = memory.poisoned({2}), c = memory.poisoned({2});
  const Tensor m = memory.of<float>({2}, {5, 1});
  square_roots(norms, squares, stream);
  expect_close(norms, std::array{6.403124, 3.605551}, 1e-6, 0.0);
  magnitude_factors(c, m, squares, stream);
  const Tensor y = memory.of<float>({2}, {14.0f * c.data<float>()[0], 7.0f * c.data<float>()[1]});
  expect_close(y, std::array{10.932163, 1.941451}, 1e-6, 0.0);
  const Tensor dm = memory.of<float>({2}, {0, 10}), dy = memory.of<float>({1, 2}, {1, 1});
  column_dots({.dots = dm, .m = m}, dy, y.reshaped({1, 2}), {}, stream);
  expect_close(dm, std::array{2.186433, 11.941451}, 1e-6, 0.0);
}

TEST(RowNorms, EqualThoseOfTheFormedMatrix) {
  for (const Shape& shape : {Shape{1, 24}, {43, 172}, {64, 64}, {172, 43}, {515, 96}}) {
    for (const int64_t rank : {1, 8, 16, 40}) {
      for (const bool double_quant : {false, true}) {
        SCOPED_TRACE(to_string(shape) + " rank " + std::to_string(rank));
        WholeNf4 whole(shape, double_quant);
        const Tensor decoded = whole.decoded(whole.q);
        const Weight weights[] = {whole.q, decoded};
        for (const Weight& weight : weights) {
          const LowRankLinear layer = with_terms(weight, rank, whole.memory);
          const Tensor squares = squares_by_kernels(layer, whole.memory);
          expect_close(squares, squares_of(decoded, layer), 0.0, 1e-5);
        }
      }
    }
  }
}

TEST(RowNorms, OfAListAreThoseOfSingleMatrices) {
  WholeNf4 first({43, 172}, true), second({300, 64}, false);
  GuardedMemory& memory = first.memory;
  const Weight weights[] = {first.q, second.w, second.q};
  std::vector<RowSquares> list;
  for (const Weight& weight : weights) {
    const LowRankLinear layer = with_terms(weight, 1 + 7 * std::ssize(list), memory);
    list.push_back({memory.poisoned({layer.out()}), memory.normal({layer.out()}), layer});
    if (list.size() == 2) continue;
    list.back().m = memory.normal({layer.out()});
    list.back().c = memory.poisoned({layer.out()});
  }
  std::vector<Tensor> singles;
  for (const RowSquares& matrix : list) {
    row_squares({&matrix, 1}, DType::kF32, first.cpu);
    singles.push_back(memory.copy_of(matrix.squares));
    std::ranges::fill(GuardedMemory::elements(matrix.squares), -1.0f);
  }
  row_squares(list, DType::kF32, first.cpu);
  for (size_t i = 0; i < list.size(); ++i) {
    const auto& [squares, base, layer, m, c] = list[i];
    expect_identical(squares, singles[i]);
    if (!c.defined()) continue;
    const Tensor factors = memory.poisoned(c.shape());
    magnitude_factors(factors, m, squares, first.cpu);
    expect_identical(c, factors);
  }
  row_squares({}, DType::kF32, first.cpu);
}

TEST(RowNorms, OfLongRowsAgreeTo1e5) {
  WholeNf4 whole({20, 4096}, true);
  const Weight weight = whole.q;
  const LowRankLinear layer = with_terms(weight, 16, whole.memory);
  expect_close(squares_by_kernels(layer, whole.memory), squares_of(whole.decoded(whole.q), layer),
               0.0, 1e-5);
}

TEST(RowNorms, SlicesByColumnsAddUpAndSlicesByRowsArePartsOfTheWhole) {
  for (const Shape& shape : {Shape{64, 172}, {43, 43}, {128, 2048}}) {
    WholeNf4 whole(shape, true);
    const Weight weight = whole.q;
    const LowRankLinear layer = with_terms(weight, 8, whole.memory);
    const std::vector<double> expected = squares_of(whole.decoded(whole.q), layer);
    const auto squares_of_slice = [&](const MatrixSlice& slice) {
      const Weight part = whole.slice(slice);
      return squares_by_kernels({&part, layer.a.columns(slice.column_begin, slice.column_end),
                                 layer.b.rows(slice.row_begin, slice.row_end), layer.scale},
                                whole.memory);
    };
    for (const int64_t parts : {2, 3, 4}) {
      const Tensor sum = whole.memory.zeros({shape.dim(0)});
      for (int64_t part = 0; part < parts; ++part) {
        const Tensor squares = squares_of_slice(slice_of(shape, 1, part, parts));
        for (int64_t i = 0; i < sum.numel(); ++i) sum.data<float>()[i] += squares.data<float>()[i];
        const MatrixSlice rows = slice_of(shape, 0, part, parts);
        expect_close(squares_of_slice(rows),
                     std::span(expected).subspan(static_cast<size_t>(rows.row_begin),
                                                 static_cast<size_t>(rows.shape().dim(0))),
                     0.0, 1e-5);
      }
      expect_close(sum, expected, 0.0, 1e-5);
    }
  }
}

TEST(RowNorms, WithoutAChangeAreThoseOfTheBaseToTheBit) {
  WholeNf4 whole({300, 172}, true);
  const Weight weight = whole.q;
  LowRankLinear layer = with_terms(weight, 16, whole.memory);
  layer.b = whole.memory.zeros(layer.b.shape());
  const Tensor base = whole.memory.poisoned({layer.out()});
  base_row_squares(base, weight, whole.cpu);
  expect_identical(squares_by_kernels(layer, whole.memory), base);
}

TEST(RowNorms, AreNotBelowZeroWhereTheChangeCancelsTheRow) {
  GuardedMemory memory;
  const Tensor a = memory.normal({1, 100}), b = memory.normal({60, 1}),
               w = memory.poisoned({60, 100});
  for (int64_t i = 0; i < w.numel(); ++i) {
    w.data<float>()[i] = -0.3f * b.data<float>()[i / 100] * a.data<float>()[i % 100];
  }
  const Weight weight = w;
  const Tensor squares = squares_by_kernels({&weight, a, b, 0.3f}, memory);
  for (const float square : GuardedMemory::elements(squares)) {
    EXPECT_GE(square, 0.0f);
    EXPECT_LT(square, 1e-3f);
  }
}

TEST(RowNorms, RowsOfZeroHaveNoFactorAndNoGradient) {
  GuardedMemory memory;
  Stream stream;
  const Tensor squares = memory.of<float>({3}, {0, 4, 0}), m = memory.of<float>({3}, {0, -6, 2});
  const Tensor c = memory.poisoned({3});
  magnitude_factors(c, m, squares, stream);
  expect_identical(c, memory.of<float>({3}, {0, -3, 0}));
  const Tensor dm = memory.of<float>({3}, {0.5, 1, 7}), y = memory.of<float>({1, 3}, {0, 3, 0});
  column_dots({.dots = dm, .m = m}, memory.of<float>({1, 3}, {1, 1, 1}), y, {}, stream);
  expect_identical(dm, memory.of<float>({3}, {0.5, 0.5, 7}));
}

TEST(SetRowNorms, GivesRowsTheirMagnitudesAndKeepsRowsOfZero) {
  GuardedMemory memory;
  Stream stream;
  const Tensor w = memory.normal({70, 999}, 0.02f), m = memory.normal({70});
  std::fill_n(w.data<float>() + 3 * 999, 999, 0.0f);
  m.data<float>()[4] = 0.0f;
  const Tensor before = memory.copy_of(w), squares = memory.poisoned({70});
  set_row_norms(w, m, stream);
  base_row_squares(squares, w, stream);
  square_roots(squares, squares, stream);
  for (int64_t i = 0; i < 70; ++i) {
    const float norm = i == 3 ? 0.0f : std::abs(m.data<float>()[i]);
    EXPECT_NEAR(squares.data<float>()[i], norm, 1e-6 * norm) << i;
    if (norm == 0.0f) continue;
    EXPECT_EQ(std::signbit(w.data<float>()[i * 999] * before.data<float>()[i * 999]),
              std::signbit(m.data<float>()[i]));
  }
}

TEST(RowNormsDeathTest, RefuseSingularValuesAndTypesOfTheGpu) {
  GuardedMemory memory;
  Stream stream;
  const Weight weight = memory.zeros({4, 6});
  const LowRankLinear layer = {&weight, memory.zeros({2, 6}), memory.zeros({4, 2}), 1.0f};
  const Tensor base = memory.zeros({4}), squares = memory.poisoned({4});
  RowSquares matrix = {squares, base, layer};
  EXPECT_DEATH(row_squares({&matrix, 1}, DType::kBF16, stream), "products in");
  matrix.layer.e = memory.zeros({2});
  EXPECT_DEATH(row_squares({&matrix, 1}, DType::kF32, stream), "or an e");
}

}  // namespace
}  // namespace rankwise
