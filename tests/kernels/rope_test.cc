// SPDX-License-Identifier: Apache-2.0
#include "kernels/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_gradient;
using testing::expect_identical;
using testing::GuardedMemory;
using testing::weighted_sum;

struct Tables {
  Tables(GuardedMemory& memory, const std::vector<int32_t>& positions, int64_t dim,
         float theta = 10000.0f) {
    std::vector<float> frequencies;
    for (int64_t j = 0; j < dim / 2; ++j) {
      frequencies.push_back(
          std::pow(theta, -2.0f * static_cast<float>(j) / static_cast<float>(dim)));
    }
    const auto tokens = static_cast<int64_t>(positions.size());
    cos = memory.poisoned({tokens, dim / 2});
    sin = memory.poisoned({tokens, dim / 2});
    inv_freq = memory.of<float>({dim / 2}, frequencies);
    rope_tables(cos, sin, memory.of<int32_t>({tokens}, positions), inv_freq, stream);
  }
  Stream stream;
  Tensor cos, sin, inv_freq;
};

TEST(Rope, TablesAreCosineAndSineOfTheFp32Angle) {
  GuardedMemory memory;
  const std::vector<int32_t> positions{0, 1, 17, 4095, 0};
  const Tables tables(memory, positions, 24);
  std::vector<double> cos;
  std::vector<double> sin;
  for (const int32_t position : positions) {
    for (const float frequency : GuardedMemory::elements(tables.inv_freq)) {
      const float angle = static_cast<float>(position) * frequency;
      cos.push_back(std::cos(static_cast<double>(angle)));
      sin.push_back(std::sin(static_cast<double>(angle)));
    }
  }
  expect_close(tables.cos, cos, 1e-7, 1e-7);
  expect_close(tables.sin, sin, 1e-7, 1e-7);
}

TEST(Rope, PairsElementsHalfAHeadApart) {
  GuardedMemory memory;
  Stream stream;
  // One angle of 90 degrees, one of 0: (x0, x1 | x2, x3) becomes (-x2, x1 | x0, x3).
  const Tensor cos = memory.of<float>({1, 2}, {0.0f, 1.0f});
  const Tensor sin = memory.of<float>({1, 2}, {1.0f, 0.0f});
  const Tensor x = memory.of<float>({1, 1, 4}, {1.0f, 2.0f, 3.0f, 4.0f});
  const Tensor k = memory.of<float>({1, 2, 4}, {1, 2, 3, 4, 5, 6, 7, 8});
  rope(x, k, cos, sin, stream);
  expect_close(x, std::vector<double>{-3.0, 2.0, 1.0, 4.0}, 0.0, 0.0);
  expect_close(k, std::vector<double>{-3.0, 2.0, 1.0, 4.0, -7.0, 6.0, 5.0, 8.0}, 0.0, 0.0);
  rope_backward(x, k, cos, sin, {}, stream);
  expect_close(x, std::vector<double>{1.0, 2.0, 3.0, 4.0}, 0.0, 0.0);
}

// By angle, or by -angle when `sign` is -1.
std::vector<double> rotated(const Tensor& x, const Tables& tables, double sign = 1.0) {
  const int64_t half = x.dim(2) / 2;
  std::vector<double> out(static_cast<size_t>(x.numel()));
  for (int64_t row = 0; row < x.dim(0) * x.dim(1); ++row) {
    for (int64_t j = 0; j < half; ++j) {
      const int64_t t = row / x.dim(1);
      const double c = tables.cos.data<float>()[t * half + j];
      const double s = sign * tables.sin.data<float>()[t * half + j];
      const int64_t i = row * 2 * half + j;
      const double low = x.data<float>()[i];
      const double high = x.data<float>()[i + half];
      out[static_cast<size_t>(i)] = low * c - high * s;
      out[static_cast<size_t>(i + half)] = high * c + low * s;
    }
  }
  return out;
}

TEST(Rope, AgreesWithDoublePrecisionReference) {
  for (const int64_t dim : {8, 24, 64, 128}) {
    GuardedMemory memory;
    Stream stream;
    std::vector<int32_t> positions;
    for (int32_t t = 0; t < 65; ++t) positions.push_back(t % 33);  // two documents
    const Tables tables(memory, positions, dim);
    const Tensor q = memory.normal({65, 3, dim});
    const Tensor k = memory.normal({65, 1, dim});
    const std::vector<double> expected_q = rotated(q, tables);
    const std::vector<double> expected_k = rotated(k, tables);
    rope(q, k, tables.cos, tables.sin, stream);
    expect_close(q, expected_q, 1e-6, 1e-6);
    expect_close(k, expected_k, 1e-6, 1e-6);
  }
}

TEST(Rope, BackwardMatchesFiniteDifferences) {
  GuardedMemory memory;
  Stream stream;
  const Tables tables(memory, {5, 9, 2}, 8);
  const Tensor x = memory.normal({3, 2, 8});
  const Tensor dy = memory.normal({3, 2, 8});
  const Tensor dx = memory.copy_of(dy);
  const Tensor dk = memory.copy_of(dy);
  rope_backward(dx, dk, tables.cos, tables.sin, {}, stream);
  expect_identical(dk, dx);
  expect_gradient(x, dx, [&] {
    const Tensor y = memory.copy_of(x);
    rope(y, memory.copy_of(x), tables.cos, tables.sin, stream);
    return weighted_sum(y, dy);
  });
}

// Sums over tokens, by column, of gradients with what rope has turned into x, less a bias.
std::vector<double> expected_dots(const Tensor& dx, const Tensor& x, const Tensor& bias,
                                  const Tables& tables) {
  const std::vector<double> gradient = rotated(dx, tables, -1.0), y = rotated(x, tables, -1.0);
  const auto width = static_cast<size_t>(x.dim(1) * x.dim(2));
  std::vector<double> sums(width);
  for (size_t i = 0; i < y.size(); ++i) {
    const double b = bias.defined() ? bias.data<float>()[i % width] : 0.0f;
    sums[i % width] += gradient[i] * (y[i] - b);
  }
  return sums;
}

struct BackwardCase {
  BackwardCase(int64_t tokens, int64_t heads, int64_t key_heads, int64_t dim)
      : tables(memory, positions_of(tokens), dim),
        q(memory.normal({tokens, heads, dim})),
        k(memory.normal({tokens, key_heads, dim})),
        dq(memory.normal(q.shape())),
        dk(memory.normal(k.shape())) {}
  static std::vector<int32_t> positions_of(int64_t tokens) {
    std::vector<int32_t> positions;
    for (int64_t t = 0; t < tokens; ++t) positions.push_back(static_cast<int32_t>(t % 33));
    return positions;
  }
  ColumnDots dots_of(const Tensor& x, bool biased) {
    const Shape width{x.dim(1) * x.dim(2)};
    return {memory.poisoned(width), biased ? memory.normal(width) : Tensor{}};
  }
  void backward(const RopeForward& forward) {
    rope_backward(dq, dk, tables.cos, tables.sin, forward, stream);
  }
  GuardedMemory memory;
  Stream stream;
  Tables tables;
  Tensor q, k, dq, dk;
};

TEST(Rope, BackwardSumsItsGradientsWithWhatRopeHadFound) {
  for (const int64_t tokens : {1, 7, 130}) {
    for (const int64_t dim : {8, 24, 64, 128}) {
      for (const bool biased : {false, true}) {
        BackwardCase c(tokens, 6, 2, dim);
        const RopeForward forward{c.q, c.k, c.dots_of(c.q, biased), c.dots_of(c.k, biased)};
        const Tensor q = c.memory.copy_of(c.q), k = c.memory.copy_of(c.k);
        const Tensor dq = c.memory.copy_of(c.dq), dk = c.memory.copy_of(c.dk);
        const auto of_q = expected_dots(dq, q, forward.q_dots.bias, c.tables);
        const auto of_k = expected_dots(dk, k, forward.k_dots.bias, c.tables);
        c.backward(forward);
        expect_close(forward.q_dots.dots, of_q, 1e-4, 1e-5);
        expect_close(forward.k_dots.dots, of_k, 1e-4, 1e-5);
        expect_identical(c.q, q);
        expect_identical(c.k, k);
        rope_backward(dq, dk, c.tables.cos, c.tables.sin, {}, c.stream);
        expect_identical(c.dq, dq);
        expect_identical(c.dk, dk);
      }
    }
  }
}

TEST(Rope, EitherOfTheDotsMayBeAbsent) {
  BackwardCase c(40, 4, 2, 24);
  const Tensor dq = c.memory.copy_of(c.dq), dk = c.memory.copy_of(c.dk);
  const RopeForward both{c.q, c.k, c.dots_of(c.q, false), c.dots_of(c.k, false)};
  c.backward(both);
  const auto expect_same = [&](const RopeForward& one, const Tensor& dots, const Tensor& expected) {
    const Tensor d[] = {c.memory.copy_of(dq), c.memory.copy_of(dk)};
    rope_backward(d[0], d[1], c.tables.cos, c.tables.sin, one, c.stream);
    expect_identical(dots, expected);
    expect_identical(d[0], c.dq);
    expect_identical(d[1], c.dk);
  };
  const RopeForward of_q{c.q, {}, c.dots_of(c.q, false), {}};
  const RopeForward of_k{{}, c.k, {}, c.dots_of(c.k, false)};
  expect_same(of_q, of_q.q_dots.dots, both.q_dots.dots);
  expect_same(of_k, of_k.k_dots.dots, both.k_dots.dots);
}

TEST(RopeDeathTest, RefusesTablesOfAnotherHeadDim) {
  GuardedMemory memory;
  Stream stream;
  const Tables tables(memory, {0, 1}, 8);
  const Tensor x = memory.zeros({2, 1, 16});
  EXPECT_DEATH(rope(x, x, tables.cos, tables.sin, stream), "rope: cos has shape");
  EXPECT_DEATH(rope(x, memory.zeros({2, 1, 8}), tables.cos, tables.sin, stream),
               "rope: k has shape");
  const Tensor y = memory.zeros({2, 1, 8});
  const ColumnDots narrow{memory.zeros({7})};
  EXPECT_DEATH(rope_backward(y, y, tables.cos, tables.sin, {y, y, narrow}, stream),
               "rope_backward: dots has shape");
}

}  // namespace
}  // namespace rankwise
