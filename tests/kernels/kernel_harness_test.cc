// SPDX-License-Identifier: Apache-2.0
// The harness itself: a check that cannot fail would make every kernel test worthless.
#include "tests/support/kernel_harness.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace rankwise::testing {
namespace {

TEST(GuardedMemory, WritesOutsideATensorFail) {
  const auto write_at = [](int64_t index) {
    GuardedMemory memory;
    memory.zeros({4}).data<float>()[index] = 0.0f;
  };
  EXPECT_NONFATAL_FAILURE(write_at(4), "behind a tensor");
  EXPECT_NONFATAL_FAILURE(write_at(-1), "before a tensor");
  write_at(3);
}

TEST(GuardedMemory, ReadsOutsideATensorMeetNaN) {
  GuardedMemory memory;
  const Tensor x = memory.zeros({4});
  EXPECT_TRUE(std::isnan(x.data<float>()[-1]));
  EXPECT_TRUE(std::isnan(x.data<float>()[4]));
}

TEST(ExpectClose, FailsOnADifferenceAndOnNaN) {
  static GuardedMemory memory;
  static const Tensor x = memory.of<float>({2}, {1.0f, 2.0f});
  static const Tensor missing = memory.poisoned({2});
  static const std::vector<double> expected = {1.0, 2.01};
  expect_close(x, expected, 0.0, 0.01);
  EXPECT_FATAL_FAILURE(expect_close(x, expected, 0.0, 0.001), "element 1");
  EXPECT_FATAL_FAILURE(expect_close(missing, expected, 1e9, 1e9), "element 0");
}

TEST(ExpectIdentical, FailsOnOneDifferentBit) {
  static GuardedMemory memory;
  static const Tensor zero = memory.of<float>({1}, {0.0f});
  static const Tensor negative_zero = memory.of<float>({1}, {-0.0f});
  expect_identical(zero, memory.zeros({1}));
  EXPECT_NONFATAL_FAILURE(expect_identical(zero, negative_zero), "bit-identical");
}

TEST(ExpectGradient, TellsRightFromWrong) {
  GuardedMemory memory;
  const Tensor x = memory.uniform({100});
  const auto sum_of_cubes = [&] {
    double sum = 0.0;
    for (int i = 0; i < 100; ++i) sum += std::pow(static_cast<double>(x.data<float>()[i]), 3.0);
    return sum;
  };
  const Tensor before = memory.copy_of(x);
  const Tensor gradient = memory.poisoned({100});
  for (int i = 0; i < 100; ++i)
    gradient.data<float>()[i] = 3.0f * std::pow(x.data<float>()[i], 2.0f);
  expect_gradient(x, gradient, sum_of_cubes);
  expect_identical(x, before);  // restored
  gradient.data<float>()[99] += 0.1f;
  EXPECT_NONFATAL_FAILURE(expect_gradient(x, gradient, sum_of_cubes), "finite difference");
}

}  // namespace
}  // namespace rankwise::testing
