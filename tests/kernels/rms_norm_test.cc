// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm.h"

#include <gtest/gtest.h>
#include <omp.h>

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

constexpr float kEps = 1e-5f;

TEST(RmsNorm, AgreesWithDoublePrecisionReference) {
  for (const auto& [rows, width] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {1, 8}, {3, 24}, {65, 100}, {130, 257}}) {
    GuardedMemory memory;
    Stream stream;
    const Tensor x = memory.normal({rows, width}, 3.0f);
    const Tensor weight = memory.normal({width});
    const Tensor y = memory.poisoned(x.shape());
    const Tensor inv_rms = memory.poisoned({rows});
    rms_norm(y, inv_rms, x, weight, kEps, stream);
    std::vector<double> expected;
    std::vector<double> expected_inv;
    for (int64_t t = 0; t < rows; ++t) {
      const float* in = x.data<float>() + t * width;
      double squares = 0.0;
      for (int64_t c = 0; c < width; ++c) squares += static_cast<double>(in[c]) * in[c];
      expected_inv.push_back(1.0 / std::sqrt(squares / static_cast<double>(width) + kEps));
      for (int64_t c = 0; c < width; ++c) {
        expected.push_back(in[c] * expected_inv.back() * weight.data<float>()[c]);
      }
    }
    expect_close(y, expected, 1e-6, 1e-6);
    expect_close(inv_rms, expected_inv, 0.0, 1e-6);
  }
}

TEST(RmsNorm, AddsEpsInsideTheRoot) {
  GuardedMemory memory;
  Stream stream;
  const Tensor x = memory.of<float>({1, 2}, {3.0f, 1.0f});  // mean square 5
  const Tensor weight = memory.of<float>({2}, {1.0f, 2.0f});
  const Tensor y = memory.poisoned({1, 2});
  const Tensor inv_rms = memory.poisoned({1});
  rms_norm(y, inv_rms, x, weight, 4.0f, stream);
  expect_close(y, std::vector<double>{1.0, 2.0 / 3.0}, 0.0, 1e-6);
}

TEST(RmsNorm, OfZerosIsZero) {
  GuardedMemory memory;
  Stream stream;
  const Tensor x = memory.zeros({2, 24});
  const Tensor y = memory.poisoned({2, 24});
  rms_norm(y, memory.poisoned({2}), x, memory.normal({24}), kEps, stream);
  for (const float value : GuardedMemory::elements(y)) EXPECT_EQ(0.0f, value);
}

struct BackwardCall {
  BackwardCall(int64_t rows, int64_t width) {
    x = memory.normal({rows, width});
    weight = memory.normal({width});
    dy = memory.normal({rows, width});
    y = memory.poisoned({rows, width});
    inv_rms = memory.poisoned({rows});
    dx = memory.poisoned({rows, width});
    dweight = memory.zeros({width});
    rms_norm(y, inv_rms, x, weight, kEps, stream);
  }
  void run(bool accumulate) {
    rms_norm_backward(dx, dweight, dy, x, weight, inv_rms, accumulate, stream);
  }

  GuardedMemory memory;
  Stream stream;
  Tensor x, weight, dy, y, inv_rms, dx, dweight;
};

TEST(RmsNorm, BackwardMatchesFiniteDifferences) {
  for (const int64_t rows : {1, 3, 65}) {
    BackwardCall call(rows, 24);
    call.run(false);
    const auto scalar = [&] {
      rms_norm(call.y, call.inv_rms, call.x, call.weight, kEps, call.stream);
      return weighted_sum(call.y, call.dy);
    };
    expect_gradient(call.x, call.dx, scalar);
    expect_gradient(call.weight, call.dweight, scalar);
  }
}

TEST(RmsNorm, BackwardAddsToWhatIsThere) {
  BackwardCall written(7, 40);
  written.run(false);
  BackwardCall added(7, 40);
  std::fill_n(added.dx.data<float>(), added.dx.numel(), 1.0f);
  std::fill_n(added.dweight.data<float>(), added.dweight.numel(), 2.0f);
  added.run(true);
  std::vector<double> dx;
  for (const float value : GuardedMemory::elements(written.dx)) dx.push_back(value + 1.0);
  std::vector<double> dweight;
  for (const float value : GuardedMemory::elements(written.dweight)) dweight.push_back(value + 2.0);
  expect_close(added.dx, dx, 1e-6, 1e-6);
  expect_close(added.dweight, dweight, 1e-6, 1e-6);
}

TEST(RmsNorm, BackwardNeedsNoWeightGradient) {
  BackwardCall with(5, 33);
  with.run(false);
  BackwardCall without(5, 33);
  rms_norm_backward(without.dx, Tensor{}, without.dy, without.x, without.weight, without.inv_rms,
                    false, without.stream);
  expect_identical(without.dx, with.dx);
}

TEST(RmsNorm, BackwardMayOverwriteItsInputGradient) {
  BackwardCall apart(70, 33);
  apart.run(false);
  BackwardCall in_place(70, 33);
  rms_norm_backward(in_place.dy, in_place.dweight, in_place.dy, in_place.x, in_place.weight,
                    in_place.inv_rms, false, in_place.stream);
  expect_identical(in_place.dy, apart.dx);
  expect_identical(in_place.dweight, apart.dweight);
}

TEST(RmsNorm, DoesNotDependOnTheThreadCount) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  BackwardCall one(300, 128);
  one.run(false);
  omp_set_num_threads(3);
  BackwardCall three(300, 128);
  three.run(false);
  omp_set_num_threads(before);
  expect_identical(three.y, one.y);
  expect_identical(three.dx, one.dx);
  expect_identical(three.dweight, one.dweight);
}

TEST(RmsNorm, DoesNothingWhenMeasuring) {
  Stream measuring({}, Stream::Mode::kMeasure);
  const Tensor x(nullptr, DType::kF32, {4, 8});
  const Tensor weight(nullptr, DType::kF32, {8});
  const Tensor inv_rms(nullptr, DType::kF32, {4});
  rms_norm(x, inv_rms, x, weight, kEps, measuring);
  rms_norm_backward(x, weight, x, x, weight, inv_rms, true, measuring);
}

TEST(RmsNormDeathTest, NamesTheArgumentOfWrongShape) {
  GuardedMemory memory;
  Stream stream;
  const Tensor x = memory.zeros({4, 8});
  EXPECT_DEATH(rms_norm(x, memory.zeros({4}), x, memory.zeros({7}), kEps, stream),
               "rms_norm: weight has shape \\(7\\), expected \\(8\\)");
}

}  // namespace
}  // namespace rankwise
