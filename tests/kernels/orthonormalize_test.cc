// SPDX-License-Identifier: Apache-2.0
#include "kernels/orthonormalize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/orthonormalize.h"
#include "tests/kernels/gradients_of_known_spectrum.h"

namespace rankwise {
namespace {

using testing::expect_identical;
using testing::expect_orthonormal;
using testing::GuardedMemory;
using testing::kSides;
using testing::transposed;
using testing::with_singular_values;

struct Rig {
  GuardedMemory memory;
  Stream stream;
  Tensor failed = memory.poisoned({1});

  bool has_failed() const { return *failed.data<float>() != 0.0f; }
};

TEST(Orthonormalize, KeepsTheSpaceAndTheFirstDirection) {
  for (const BasisSide side : kSides) {
    for (const auto& [length, rank] :
         {std::pair{1, 1}, {43, 1}, {172, 5}, {172, 17}, {70, 64}, {300, 65}, {130, 130}}) {
      Rig rig;
      const Tensor columns = rig.memory.normal({length, rank}, 1e-6f);
      const Tensor y =
          side == BasisSide::kLeft ? rig.memory.copy_of(columns) : transposed(columns, rig.memory);
      orthonormalize(y, side, rig.failed, {}, rig.stream);
      EXPECT_FALSE(rig.has_failed());
      expect_orthonormal(y, side, 1e-5);
      // y^T columns is upper triangular with a positive diagonal.
      const Tensor q = side == BasisSide::kLeft ? y : transposed(y, rig.memory);
      for (int64_t i = 0; i < rank; ++i) {
        for (int64_t j = 0; j <= i; ++j) {
          double sum = 0.0;
          for (int64_t k = 0; k < length; ++k) {
            sum += static_cast<double>(q.data<float>()[k * rank + i]) *
                   columns.data<float>()[k * rank + j];
          }
          const double scale = 1e-6 * std::sqrt(length);
          if (i == j) {
            ASSERT_GT(sum, 0.0);
          } else {
            ASSERT_NEAR(sum, 0.0, 1e-4 * scale) << i << ", " << j;
          }
        }
      }
    }
  }
}

TEST(Orthonormalize, SurvivesAHighCondition) {
  for (const BasisSide side : kSides) {
    Rig rig;
    const Tensor y = with_singular_values(
        {300, 20}, [](int64_t i) { return std::pow(0.6, i); }, rig.memory);
    const Tensor vectors = side == BasisSide::kLeft ? y : transposed(y, rig.memory);
    orthonormalize(vectors, side, rig.failed, {}, rig.stream);
    EXPECT_FALSE(rig.has_failed());
    expect_orthonormal(vectors, side, 1e-5);
  }
}

TEST(Orthonormalize, OnePartOfTheVectorsPerRankGivesThoseOfTheWhole) {
  Rig rig;
  const Tensor whole = rig.memory.normal({60, 7}), parts = rig.memory.copy_of(whole);
  orthonormalize(whole, BasisSide::kLeft, rig.failed, {}, rig.stream);
  // Fewer rows than vectors on the first rank.
  const Tensor part[] = {parts.rows(0, 4), parts.rows(4, 60)};
  testing::on_two_ranks([&](int rank, const RankSum& sum) {
    Stream stream;
    GuardedMemory memory;
    const Tensor failed = memory.poisoned({1});
    orthonormalize(part[rank], BasisSide::kLeft, failed, sum, stream);
    EXPECT_EQ(*failed.data<float>(), 0.0f);
  });
  for (int64_t i = 0; i < whole.numel(); ++i) {
    ASSERT_NEAR(parts.data<float>()[i], whole.data<float>()[i], 1e-6) << i;
  }
}

TEST(Orthonormalize, DependentZeroOrNonFiniteVectorsAreRefusedAndStay) {
  Rig rig;
  const Tensor repeated = rig.memory.normal({40, 4}), zeros = rig.memory.zeros({40, 4});
  const Tensor one_zero = rig.memory.normal({40, 4}), nan = rig.memory.normal({40, 4});
  const Tensor infinite = rig.memory.normal({40, 4});
  for (int64_t i = 0; i < 40; ++i) {
    float* row = repeated.data<float>() + i * 4;
    row[3] = row[0] + 2.0f * row[1];
    one_zero.data<float>()[i * 4 + 2] = 0.0f;
  }
  nan.data<float>()[17] = std::numeric_limits<float>::quiet_NaN();
  infinite.data<float>()[17] = std::numeric_limits<float>::infinity();
  for (const Tensor& y : {repeated, zeros, one_zero, nan, infinite}) {
    const Tensor before = rig.memory.copy_of(y);
    orthonormalize(y, BasisSide::kLeft, rig.failed, {}, rig.stream);
    EXPECT_TRUE(rig.has_failed());
    expect_identical(y, before);
  }
  EXPECT_DEATH(
      orthonormalize(rig.memory.normal({3, 4}), BasisSide::kLeft, rig.failed, {}, rig.stream),
      "orthonormalize: 4 vectors of 3 elements");
}

TEST(Orthonormalize, VectorsThatTheLastPassFoundFarFromOrthogonalAreRefused) {
  Rig rig;
  const auto refused = [&](const std::vector<float>& lengths_and_pivot) {
    cpu::check_lengths(rig.failed, rig.memory.of<float>({3}, lengths_and_pivot));
    return rig.has_failed();
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(refused({1.0f, 2e-6f, 0.9f}));
  EXPECT_TRUE(refused({1.0f, 2e-6f, 0.4f}));
  EXPECT_TRUE(refused({1.0f, 5e-7f, 0.9f}));
  EXPECT_TRUE(refused({nan, 1.0f, 0.9f}));
  EXPECT_TRUE(refused({1.0f, 1.0f, nan}));
}

}  // namespace
}  // namespace rankwise
