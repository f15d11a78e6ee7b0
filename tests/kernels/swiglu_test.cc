// SPDX-License-Identifier: Apache-2.0
#include "kernels/swiglu.h"

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

TEST(SwiGlu, AgreesWithDoublePrecisionReference) {
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 24}, Shape{65, 37}, Shape{130, 688}}) {
    GuardedMemory memory;
    Stream stream;
    const Tensor gate = memory.normal(shape, 4.0f);
    const Tensor up = memory.normal(shape);
    const Tensor y = memory.poisoned(shape);
    swiglu(y, gate, up, stream);
    std::vector<double> expected;
    for (int64_t i = 0; i < gate.numel(); ++i) {
      const double g = gate.data<float>()[i];
      expected.push_back(g / (1.0 + std::exp(-g)) * up.data<float>()[i]);
    }
    expect_close(y, expected, 1e-7, 1e-6);
  }
}

TEST(SwiGlu, SaturatesWithoutOverflow) {
  GuardedMemory memory;
  Stream stream;
  const Tensor gate = memory.of<float>({1, 6}, {-1e4f, 1e4f, -100.0f, 100.0f, -88.0f, 0.0f});
  const Tensor up = memory.of<float>({1, 6}, std::vector<float>(6, 2.0f));
  const Tensor y = memory.poisoned({1, 6});
  swiglu(y, gate, up, stream);
  expect_close(y, std::vector<double>{0.0, 2e4, 0.0, 200.0, 0.0, 0.0}, 1e-30, 1e-6);
  const Tensor dgate = memory.poisoned({1, 6});
  const Tensor dup = memory.poisoned({1, 6});
  swiglu_backward({dgate, dup}, up, gate, up, stream);
  expect_close(dgate, std::vector<double>{0.0, 4.0, 0.0, 4.0, 0.0, 2.0}, 1e-30, 1e-6);
  expect_close(dup, std::vector<double>{0.0, 2e4, 0.0, 200.0, 0.0, 0.0}, 1e-30, 1e-6);
}

TEST(SwiGlu, BackwardMatchesFiniteDifferences) {
  GuardedMemory memory;
  Stream stream;
  const Tensor gate = memory.normal({3, 24}, 2.0f);
  const Tensor up = memory.normal({3, 24});
  const Tensor dy = memory.normal({3, 24});
  const Tensor dgate = memory.poisoned({3, 24});
  const Tensor dup = memory.poisoned({3, 24});
  swiglu_backward({dgate, dup}, dy, gate, up, stream);
  const Tensor y = memory.poisoned({3, 24});
  const auto scalar = [&] {
    swiglu(y, gate, up, stream);
    return weighted_sum(y, dy);
  };
  expect_gradient(gate, dgate, scalar);
  expect_gradient(up, dup, scalar);
}

TEST(SwiGlu, BackwardInPlaceEqualsOutOfPlace) {
  GuardedMemory memory;
  Stream stream;
  const Tensor gate = memory.normal({65, 37});
  const Tensor up = memory.normal({65, 37});
  const Tensor dy = memory.normal({65, 37});
  const Tensor dgate = memory.poisoned({65, 37});
  const Tensor dup = memory.poisoned({65, 37});
  swiglu_backward({dgate, dup}, dy, gate, up, stream);
  swiglu_backward({gate, up}, dy, gate, up, stream);
  expect_identical(gate, dgate);
  expect_identical(up, dup);
}

TEST(SwiGlu, BackwardRepeatsTheForwardOutput) {
  GuardedMemory memory;
  Stream stream;
  const Tensor gate = memory.normal({65, 37}, 3.0f);
  const Tensor up = memory.normal({65, 37});
  const Tensor dy = memory.normal({65, 37});
  const Tensor y = memory.poisoned({65, 37});
  swiglu(y, gate, up, stream);
  const Tensor dgate = memory.poisoned({65, 37});
  const Tensor dup = memory.poisoned({65, 37});
  swiglu_backward({dgate, dup}, dy, gate, up, stream);
  const Tensor inner = memory.poisoned({65, 37});
  swiglu_backward({gate, up, inner}, dy, gate, up, stream);
  expect_identical(inner, y);
  expect_identical(gate, dgate);
  expect_identical(up, dup);
}

// What swiglu_backward must write into the dots for these gradients.
std::vector<double> expected_dots(const Tensor& gradient, const Tensor& y, const Tensor& bias) {
  const int64_t width = y.dim(1);
  std::vector<double> sums(static_cast<size_t>(width));
  for (int64_t i = 0; i < y.numel(); ++i) {
    const double b = bias.defined() ? bias.data<float>()[i % width] : 0.0f;
    sums[static_cast<size_t>(i % width)] += gradient.data<float>()[i] * (y.data<float>()[i] - b);
  }
  return sums;
}

TEST(SwiGlu, BackwardSumsItsGradientsWithItsInputs) {
  for (const Shape& shape : {Shape{1, 1}, Shape{7, 43}, Shape{130, 172}, Shape{65, 2100}}) {
    for (const bool biased : {false, true}) {
      GuardedMemory memory;
      Stream stream;
      const Tensor gate = memory.normal(shape, 2.0f);
      const Tensor up = memory.normal(shape);
      const Tensor dy = memory.normal(shape);
      const SwigluGradients plain{memory.poisoned(shape), memory.poisoned(shape),
                                  memory.poisoned(shape)};
      swiglu_backward(plain, dy, gate, up, stream);
      SwigluGradients to{gate, up, memory.poisoned(shape)};  // in place
      to.gate_dots.dots = memory.poisoned({shape.dim(1)});
      to.up_dots.dots = memory.poisoned({shape.dim(1)});
      if (biased) to.gate_dots.bias = memory.normal({shape.dim(1)});
      if (biased) to.up_dots.bias = memory.normal({shape.dim(1)});
      const std::vector<double> of_gate = expected_dots(plain.dgate, gate, to.gate_dots.bias);
      const std::vector<double> of_up = expected_dots(plain.dup, up, to.up_dots.bias);
      swiglu_backward(to, dy, gate, up, stream);
      expect_close(to.gate_dots.dots, of_gate, 1e-4, 1e-5);
      expect_close(to.up_dots.dots, of_up, 1e-4, 1e-5);
      expect_identical(to.dgate, plain.dgate);
      expect_identical(to.dup, plain.dup);
      expect_identical(to.inner, plain.inner);
    }
  }
}

TEST(SwiGlu, EitherOfTheDotsMayBeAbsent) {
  GuardedMemory memory;
  Stream stream;
  const Shape shape{70, 37};
  const Tensor gate = memory.normal(shape), up = memory.normal(shape), dy = memory.normal(shape);
  const auto dots_of = [&](bool of_gate, bool of_up) {
    SwigluGradients to{memory.poisoned(shape), memory.poisoned(shape)};
    if (of_gate) to.gate_dots = {memory.poisoned({37}), memory.zeros({37})};
    if (of_up) to.up_dots = {memory.poisoned({37})};
    swiglu_backward(to, dy, gate, up, stream);
    return to;
  };
  const SwigluGradients both = dots_of(true, true);
  expect_identical(dots_of(true, false).gate_dots.dots, both.gate_dots.dots);
  expect_identical(dots_of(false, true).up_dots.dots, both.up_dots.dots);
}

TEST(SwiGluDeathTest, RefusesInputsOfDifferentShape) {
  GuardedMemory memory;
  Stream stream;
  const Tensor gate = memory.zeros({2, 4});
  EXPECT_DEATH(swiglu(gate, gate, memory.zeros({2, 5}), stream), "swiglu: up has shape");
  EXPECT_DEATH(swiglu_backward({gate, gate, {}, {memory.zeros({5})}}, gate, gate, gate, stream),
               "swiglu_backward: dots has shape");
}

}  // namespace
}  // namespace rankwise
