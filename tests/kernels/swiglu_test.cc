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
  swiglu_backward(dgate, dup, Tensor{}, up, gate, up, stream);
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
  swiglu_backward(dgate, dup, Tensor{}, dy, gate, up, stream);
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
  swiglu_backward(dgate, dup, Tensor{}, dy, gate, up, stream);
  swiglu_backward(gate, up, Tensor{}, dy, gate, up, stream);
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
  swiglu_backward(dgate, dup, Tensor{}, dy, gate, up, stream);
  const Tensor inner = memory.poisoned({65, 37});
  swiglu_backward(gate, up, inner, dy, gate, up, stream);
  expect_identical(inner, y);
  expect_identical(gate, dgate);
  expect_identical(up, dup);
}

TEST(SwiGluDeathTest, RefusesInputsOfDifferentShape) {
  GuardedMemory memory;
  Stream stream;
  const Tensor gate = memory.zeros({2, 4});
  EXPECT_DEATH(swiglu(gate, gate, memory.zeros({2, 5}), stream), "swiglu: up has shape");
}

}  // namespace
}  // namespace rankwise
