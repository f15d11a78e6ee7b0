// SPDX-License-Identifier: Apache-2.0
#include "kernels/orthogonality.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_gradient;
using testing::GuardedMemory;

struct Rig {
  GuardedMemory memory;
  Stream stream;
  std::vector<OrthogonalityTerm> terms;

  void add(const Tensor& p, bool columns) {
    terms.push_back({p, memory.zeros(p.shape()), columns});
  }
  double run(float weight) {
    const Tensor sum = memory.zeros(DType::kF64, {1});
    orthogonality(sum, terms, weight, stream);
    return *sum.data<double>();
  }
};

TEST(Orthogonality, EqualsAWorkedExample) {
  // Two times the identity beside a matrix of zeros, the mean of both with coefficient 0.1.
  Rig rig;
  rig.add(rig.memory.of<float>({2, 2}, {2, 0, 0, 2}), false);
  rig.add(rig.memory.zeros({2, 2}), true);
  EXPECT_NEAR(0.05 * rig.run(0.05f), 0.282843, 1e-6);
  expect_close(rig.terms[0].gradient, std::array{0.141421, 0.0, 0.0, 0.141421}, 1e-6, 0.0);
  expect_close(rig.terms[1].gradient, std::array{0.0, 0.0, 0.0, 0.0}, 0.0, 0.0);
}

TEST(Orthogonality, GradientsMatchFiniteDifferencesAndAreAddedToWhatIsThere) {
  Rig rig;
  rig.add(rig.memory.uniform({3, 17}), false);
  rig.add(rig.memory.uniform({11, 4}), true);
  rig.add(rig.memory.uniform({1, 5}), false);
  for (int pass = 0; pass < 2; ++pass) rig.run(0.25f);
  for (const OrthogonalityTerm& term : rig.terms) {
    const Tensor gradient = rig.memory.copy_of(term.gradient);
    expect_gradient(term.p, gradient, [&] { return 2 * 0.25 * rig.run(0.0f); }, {.step = 1e-3f});
  }
}

TEST(Orthogonality, OrthonormalRowsAndColumnsGiveZero) {
  Rig rig;
  rig.add(rig.memory.of<float>({2, 3}, {0, 1, 0, 0, 0, -1}), false);
  rig.add(rig.memory.of<float>({3, 2}, {0, 1, 0, 0, -1, 0}), true);
  EXPECT_EQ(rig.run(1.0f), 0.0);
  for (const OrthogonalityTerm& term : rig.terms) {
    for (const float value : GuardedMemory::elements(term.gradient)) EXPECT_EQ(value, 0.0f);
  }
  // The other way round they are too many to be orthonormal.
  for (OrthogonalityTerm& term : rig.terms) term.columns = !term.columns;
  EXPECT_NEAR(rig.run(1.0f), 2.0, 1e-6);
}

TEST(Orthogonality, AddsToTheSum) {
  Rig rig;
  const Tensor sum = rig.memory.of<double>({1}, {3.0});
  rig.add(rig.memory.zeros({4, 9}), false);
  orthogonality(sum, rig.terms, 1.0f, rig.stream);
  EXPECT_DOUBLE_EQ(*sum.data<double>(), 5.0);
  orthogonality(sum, {}, 1.0f, rig.stream);
  EXPECT_DOUBLE_EQ(*sum.data<double>(), 5.0);
}

}  // namespace
}  // namespace rankwise
