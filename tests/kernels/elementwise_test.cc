// SPDX-License-Identifier: Apache-2.0
#include "kernels/elementwise.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <array>
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

constexpr int64_t kSizes[] = {1, 3, 65, 40001};

TEST(Elementwise, FillWritesEveryElement) {
  Stream stream;
  for (const int64_t size : kSizes) {
    GuardedMemory memory;
    const Tensor x = memory.poisoned({size});
    fill(x, 2.5f, stream);
    expect_close(x, std::vector<double>(static_cast<size_t>(size), 2.5), 0.0, 0.0);
    const Tensor ids = memory.poisoned(DType::kI32, {size});
    fill(ids, 0.0f, stream);
    expect_identical(ids, memory.zeros(DType::kI32, {size}));
  }
}

TEST(Elementwise, CopyKeepsBitsOfAnyType) {
  Stream stream;
  GuardedMemory memory;
  const Tensor x = memory.of<uint16_t>({5}, {0, 1, 0xffff, 0x7fc1, 42});
  const Tensor y = memory.zeros(DType::kU16, {5});
  copy(y, x, stream);
  expect_identical(y, x);
}

TEST(Elementwise, AddAndScaleTouchEveryElement) {
  Stream stream;
  for (const int64_t size : kSizes) {
    GuardedMemory memory;
    const Tensor x = memory.normal({size});
    const Tensor y = memory.normal({size});
    std::vector<double> expected;
    for (int64_t i = 0; i < size; ++i) {
      expected.push_back((static_cast<double>(y.data<float>()[i]) + x.data<float>()[i]) * -0.5);
    }
    add(y, x, stream);
    scale(y, -0.5f, stream);
    expect_close(y, expected, 1e-7, 1e-6);
  }
}

TEST(Elementwise, BiasBackwardMatchesFiniteDifferences) {
  Stream stream;
  for (const int64_t rows : {1, 3, 65, 130}) {
    GuardedMemory memory;
    const Tensor x = memory.normal({rows, 24});
    const Tensor bias = memory.normal({24});
    const Tensor dy = memory.normal({rows, 24});
    const Tensor dbias = memory.zeros({24});
    bias_backward(dbias, dy, stream);
    expect_gradient(bias, dbias, [&] {
      const Tensor y = memory.copy_of(x);
      add_bias(y, bias, stream);
      return weighted_sum(y, dy);
    });
  }
}

TEST(Elementwise, BiasBackwardAddsAndDoesNotDependOnTheThreadCount) {
  const int before = omp_get_max_threads();
  GuardedMemory memory;
  Stream stream;
  const Tensor dy = memory.normal({700, 65});
  const Tensor one = memory.normal({65});
  const Tensor three = memory.copy_of(one);
  std::vector<double> expected;
  for (int64_t c = 0; c < 65; ++c) {
    double sum = one.data<float>()[c];
    for (int64_t t = 0; t < 700; ++t) sum += dy.data<float>()[t * 65 + c];
    expected.push_back(sum);
  }
  omp_set_num_threads(1);
  bias_backward(one, dy, stream);
  omp_set_num_threads(3);
  bias_backward(three, dy, stream);
  omp_set_num_threads(before);
  expect_identical(three, one);
  expect_close(one, expected, 1e-4, 0.0);
}

TEST(Elementwise, SumOfSquaresIsExactWhereFp32IsNot) {
  Stream stream;
  GuardedMemory memory;
  const int64_t count = 100003;
  const Tensor x = memory.poisoned({count});
  fill(x, 1.0f, stream);
  x.data<float>()[0] = 8192.0f;  // 2^26 + 1 is not an fp32 number
  const Tensor sum = memory.of<double>({1}, {0.5});
  sum_of_squares(sum, std::array{x}, stream);
  EXPECT_EQ(8192.0 * 8192.0 + 100002.5, sum.data<double>()[0]);
}

TEST(Elementwise, SumOfSquaresDoesNotDependOnTheThreadCount) {
  const int before = omp_get_max_threads();
  GuardedMemory memory;
  Stream stream;
  const Tensor x = memory.normal({300001});
  const Tensor one = memory.zeros(DType::kF64, {1});
  const Tensor three = memory.zeros(DType::kF64, {1});
  omp_set_num_threads(1);
  sum_of_squares(one, std::array{x}, stream);
  omp_set_num_threads(3);
  sum_of_squares(three, std::array{x}, stream);
  omp_set_num_threads(before);
  expect_identical(three, one);
}

TEST(Elementwise, SumOfSquaresOfAListIsTheSumOfItsParts) {
  Stream stream;
  GuardedMemory memory;
  const std::vector<Tensor> parts{memory.normal({3, 5}), memory.zeros({0}), memory.normal({5000})};
  const Tensor whole = memory.of<double>({1}, {0.25});
  const Tensor single = memory.copy_of(whole);
  sum_of_squares(whole, parts, stream);
  for (const Tensor& part : parts) sum_of_squares(single, std::array{part}, stream);
  expect_identical(whole, single);
  sum_of_squares(whole, {}, stream);
  expect_identical(whole, single);
}

TEST(Elementwise, RandomFillsFollowTheStreamOfRandomNumbers) {
  Stream stream;
  const Rng rng(7, "fill", 3);
  for (const int64_t size : {1, 7, 255, 256, 1000, 40001}) {
    GuardedMemory memory;
    const Tensor bytes = memory.poisoned(DType::kU8, {size});
    fill_random_bytes(bytes, rng, stream);
    const Tensor normal = memory.poisoned({size});
    fill_normal(normal, 0.5f, 2.0f, rng, stream);
    for (int64_t i = 0; i < size; ++i) {
      const auto index = static_cast<uint64_t>(i);
      ASSERT_EQ(rng.bits(index) & 0xff, bytes.data<uint8_t>()[i]) << i;
      ASSERT_FLOAT_EQ(0.5f + 2.0f * rng.normal(index), normal.data<float>()[i]) << i;
    }
  }
}

TEST(Dropout, KeepsTheMeanAndTheRate) {
  GuardedMemory memory;
  Stream stream;
  const int64_t count = 200000;
  const float p = 0.3f;
  const Tensor x = memory.poisoned({1, count});
  fill(x, 1.0f, stream);
  const Tensor y = memory.poisoned({1, count});
  dropout(y, x, p, Rng(5, "dropout", 2), {0, count}, stream);
  double sum = 0.0;
  for (const float value : GuardedMemory::elements(y)) {
    ASSERT_TRUE(value == 0.0f || std::abs(value - 1.0f / 0.7f) < 1e-6f) << value;
    sum += value;
  }
  // Five standard deviations of the mean: 5 * sqrt(p / (1 - p) / count).
  EXPECT_NEAR(1.0, sum / static_cast<double>(count), 0.0074);
}

TEST(Dropout, FollowsTheStreamOfRandomNumbers) {
  GuardedMemory memory;
  Stream stream;
  const Rng rng(9, "mask", 4);
  const uint64_t first = 4294967290ull;  // the counter's low word overflows on the way
  const Tensor x = memory.normal({7, 11});
  const Tensor y = memory.poisoned({7, 11});
  dropout(y, x, 0.5f, rng, {first, 11}, stream);
  for (uint64_t i = 0; i < 77; ++i) {
    const float expected = rng.uniform(first + i) >= 0.5f ? x.data<float>()[i] * 2.0f : 0.0f;
    EXPECT_EQ(expected, y.data<float>()[i]) << i;
  }
}

// Rows and columns [begin, end) of x.
Tensor rectangle(const Tensor& x, std::pair<int64_t, int64_t> rows,
                 std::pair<int64_t, int64_t> columns, GuardedMemory& memory) {
  const Tensor out = memory.poisoned({rows.second - rows.first, columns.second - columns.first});
  for (int64_t t = 0; t < out.dim(0); ++t) {
    std::copy_n(x.data<float>() + (rows.first + t) * x.dim(1) + columns.first, out.dim(1),
                out.data<float>() + t * out.dim(1));
  }
  return out;
}

TEST(Dropout, DoesNotDependOnSlicesOrThreads) {
  using Range = std::pair<int64_t, int64_t>;
  const int before = omp_get_max_threads();
  for (const int64_t width : {10, 512, 1025}) {
    GuardedMemory memory;
    Stream stream;
    const Rng rng(1, "slices", 0);
    const Tensor x = memory.normal({150, width});
    const Tensor whole = memory.poisoned({150, width});
    omp_set_num_threads(1);
    dropout(whole, x, 0.1f, rng, {11, width}, stream);
    omp_set_num_threads(3);
    for (const Range& rows : {Range{0, 150}, Range{7, 8}, Range{8, 139}}) {
      for (const Range& columns : {Range{0, width}, Range{0, 1}, Range{1, 6}, Range{6, width}}) {
        const Tensor part = rectangle(x, rows, columns, memory);
        const auto first = static_cast<uint64_t>(11 + rows.first * width + columns.first);
        dropout(part, part, 0.1f, rng, {first, width}, stream);
        expect_identical(part, rectangle(whole, rows, columns, memory));
      }
    }
  }
  omp_set_num_threads(before);
}

TEST(Dropout, BackwardMatchesFiniteDifferencesWithTheSameMask) {
  GuardedMemory memory;
  Stream stream;
  const Rng rng(3, "mask", 1);
  const Tensor x = memory.normal({5, 12});
  const Tensor dy = memory.normal({5, 12});
  const Tensor dx = memory.copy_of(dy);
  dropout(dx, dx, 0.4f, rng, {100, 30}, stream);  // in place
  const Tensor y = memory.poisoned({5, 12});
  expect_gradient(x, dx, [&] {
    dropout(y, x, 0.4f, rng, {100, 30}, stream);
    return weighted_sum(y, dy);
  });
}

TEST(Dropout, OfZeroCopies) {
  GuardedMemory memory;
  Stream stream;
  const Tensor x = memory.normal({3, 11});
  const Tensor y = memory.poisoned({3, 11});
  dropout(y, x, 0.0f, Rng(1, "none"), {0, 11}, stream);
  expect_identical(y, x);
}

TEST(ElementwiseDeathTest, RefusesUnequalSizesAndTypes) {
  GuardedMemory memory;
  Stream stream;
  const Tensor x = memory.zeros({4});
  EXPECT_DEATH(add(memory.zeros({5}), x, stream), "add: y \\(5\\), x \\(4\\)");
  EXPECT_DEATH(copy(memory.zeros(DType::kI32, {4}), x, stream), "copy: y is I32, expected F32");
  EXPECT_DEATH(fill(memory.zeros(DType::kI32, {4}), 1.0f, stream), "fill");
  EXPECT_DEATH(dropout(x, x, 1.0f, Rng(1, "p"), {0, 4}, stream), "dropout: p 1");
  EXPECT_DEATH(cast(x, x, stream), "cast: the CPU computes in F32");
}

}  // namespace
}  // namespace rankwise
