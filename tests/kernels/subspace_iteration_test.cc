// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/orthonormalize.h"
#include "tests/kernels/gradients_of_known_spectrum.h"

namespace rankwise {
namespace {

using testing::captured_energy;
using testing::expect_identical;
using testing::expect_orthonormal;
using testing::GuardedMemory;
using testing::kSides;
using testing::shape_of_basis;
using testing::transposed;
using testing::with_singular_values;

struct Rig {
  GuardedMemory memory;
  Stream stream;
  Tensor failed = memory.poisoned({1});

  bool has_failed() const { return *failed.data<float>() != 0.0f; }
  Tensor random_basis(const Tensor& g, BasisSide side, int64_t rank) {
    const Tensor basis = memory.normal(shape_of_basis(g.shape(), side, rank));
    orthonormalize(basis, side, failed, {}, stream);
    EXPECT_FALSE(has_failed());
    return basis;
  }
  void iterate(const Tensor& basis, BasisSide side, const Tensor& g, int iterations,
               bool rotate = false) {
    subspace_iteration(basis, side, failed, g, {.iterations = iterations, .rotate = rotate},
                       stream);
  }
  // Two iterations from random vectors; of few vectors, a block with 8 more, the first of which are
  // kept after a rotation.
  Tensor cold_basis(const Tensor& g, BasisSide side, int64_t rank) {
    const bool few = rank < 16;
    const Tensor block = random_basis(g, side, few ? rank + 8 : rank);
    iterate(block, side, g, 2, few);
    EXPECT_FALSE(has_failed());
    if (!few) return block;
    if (side == BasisSide::kRight) return block.rows(0, rank);
    const Tensor kept = transposed(block, memory).rows(0, rank);
    return transposed(kept, memory);
  }
  Tensor exact(const Tensor& g, BasisSide side, int64_t rank) {
    const Tensor basis = memory.poisoned(shape_of_basis(g.shape(), side, rank));
    exact_basis(basis, side, failed, g, stream);
    EXPECT_FALSE(has_failed());
    return basis;
  }
};

TEST(SubspaceIteration, CapturesTheEnergyThatTheExactBasisDoes) {
  const Shape shapes[] = {{43, 172}, {172, 43}, {200, 300}};
  for (const BasisSide side : kSides) {
    for (const Shape& shape : shapes) {
      for (const int64_t rank : {1, 5, 17}) {
        for (const double power : {1.0, 2.0, 3.0}) {
          Rig rig;
          const auto value = [&](int64_t i) {
            return std::pow(static_cast<double>(i + 1), -power);
          };
          const Tensor g = with_singular_values(shape, value, rig.memory);
          const double most = captured_energy(rig.exact(g, side, rank), side, g);
          const Tensor basis = rig.cold_basis(g, side, rank);
          EXPECT_FALSE(rig.has_failed());
          expect_orthonormal(basis, side, 1e-5);
          EXPECT_GE(captured_energy(basis, side, g), 0.99 * most)
              << to_string(shape) << " rank " << rank << " power " << power;
          // Another gradient with nearly the same subspace.
          const Tensor next = with_singular_values(shape, value, rig.memory, 0.05);
          rig.iterate(basis, side, next, 1);
          EXPECT_FALSE(rig.has_failed());
          const double best = captured_energy(rig.exact(next, side, rank), side, next);
          EXPECT_GE(captured_energy(basis, side, next), 0.99 * best);
        }
      }
    }
  }
}

TEST(SubspaceIteration, FindsAPlantedGradientInOneIteration) {
  for (const BasisSide side : kSides) {
    Rig rig;
    const Tensor g = with_singular_values(
        {90, 61}, [](int64_t i) { return i < 6 ? 1.0 : 0.0; }, rig.memory);
    const Tensor basis = rig.random_basis(g, side, 6);
    rig.iterate(basis, side, g, 1);
    EXPECT_FALSE(rig.has_failed());
    EXPECT_NEAR(captured_energy(basis, side, g), 6.0, 1e-4);
  }
}

TEST(SubspaceIteration, RotationGivesTheSingularVectorsInOrder) {
  for (const BasisSide side : kSides) {
    Rig rig;
    const auto value = [](int64_t i) { return std::pow(0.5, i); };
    const Tensor g = with_singular_values({50, 80}, value, rig.memory);
    const Tensor basis = rig.random_basis(g, side, 6), exact = rig.exact(g, side, 6);
    rig.iterate(basis, side, g, 9, true);
    EXPECT_FALSE(rig.has_failed());
    expect_orthonormal(basis, side, 1e-5);
    const Tensor again = rig.memory.copy_of(basis);
    rig.iterate(again, side, g, 1, true);
    const Tensor found = side == BasisSide::kLeft ? transposed(basis, rig.memory) : basis;
    const Tensor wanted = side == BasisSide::kLeft ? transposed(exact, rig.memory) : exact;
    for (int64_t i = 0; i < 6; ++i) {
      const double cosine = testing::weighted_sum(found.rows(i, i + 1), wanted.rows(i, i + 1));
      EXPECT_NEAR(std::abs(cosine), 1.0, 1e-4) << "vector " << i;
      EXPECT_GT(*std::ranges::max_element(GuardedMemory::elements(wanted.rows(i, i + 1)), {},
                                          [](float x) { return std::abs(x); }),
                0.0f);
    }
    // A converged basis keeps its directions.
    for (int64_t i = 0; i < basis.numel(); ++i) {
      ASSERT_NEAR(again.data<float>()[i], basis.data<float>()[i], 1e-4);
    }
  }
}

TEST(SubspaceIteration, AConvergedBasisKeepsOrderAndDirections) {
  for (const BasisSide side : kSides) {
    Rig rig;
    const Tensor g = with_singular_values(
        {50, 80}, [](int64_t i) { return std::pow(0.7, i); }, rig.memory);
    const Tensor basis = rig.exact(g, side, 8), before = rig.memory.copy_of(basis);
    rig.iterate(basis, side, g, 3);
    for (int64_t i = 0; i < basis.numel(); ++i) {
      ASSERT_NEAR(basis.data<float>()[i], before.data<float>()[i], 1e-4);
    }
  }
}

// Which rows of a gradient a rank holds, or all for summands.
enum class Split { kSummands, kRows };

TEST(SubspaceIteration, OnTwoRanksGivesTheBasisOfTheWholeGradient) {
  for (const BasisSide side : kSides) {
    for (const Split split : {Split::kSummands, Split::kRows}) {
      Rig rig;
      const Tensor parts[] = {rig.memory.normal({14, 30}), rig.memory.normal({14, 30})};
      const bool rows = split == Split::kRows, split_basis = rows && side == BasisSide::kLeft;
      const Tensor whole = rig.memory.poisoned({rows ? 28 : 14, 30});
      for (int64_t i = 0; i < whole.numel(); ++i) {
        const float first = parts[0].data<float>()[i % 420];
        const float second = parts[1].data<float>()[i % 420];
        whole.data<float>()[i] = rows ? (i < 420 ? first : second) : first + second;
      }
      const Tensor basis = rig.random_basis(whole, side, 5), start = rig.memory.copy_of(basis);
      rig.iterate(basis, side, whole, 2, true);
      testing::on_two_ranks([&](int rank, const RankSum& sum) {
        SubspaceSums sums = {.failed = sum};
        if (!rows || split_basis) sums.projected = sum;
        if (!rows || !split_basis) sums.sketch = sum;
        if (rows) (split_basis ? sums.sketch_gram : sums.projected_gram) = sum;
        GuardedMemory memory;
        Stream stream;
        const Tensor failed = memory.poisoned({1});
        const auto own = [&](const Tensor& x) {
          return split_basis ? x.rows(14 * rank, 14 * rank + 14) : x;
        };
        const Tensor found = memory.copy_of(own(start)), expected = own(basis);
        subspace_iteration(found, side, failed, parts[rank],
                           {.iterations = 2, .rotate = true, .sums = sums}, stream);
        EXPECT_EQ(*failed.data<float>(), 0.0f);
        for (int64_t i = 0; i < found.numel(); ++i) {
          ASSERT_NEAR(found.data<float>()[i], expected.data<float>()[i], 1e-4);
        }
      });
    }
  }
}

TEST(SubspaceIteration, AFailureOnOneRankKeepsTheBasisOnAll) {
  Rig rig;
  const Tensor g = rig.memory.normal({14, 30}), start = rig.random_basis(g, BasisSide::kLeft, 5);
  testing::on_two_ranks([&](int rank, const RankSum& sum) {
    GuardedMemory memory;
    Stream stream;
    const Tensor failed = memory.poisoned({1}), basis = memory.copy_of(start);
    const Tensor own = rank == 0 ? memory.copy_of(g) : memory.zeros({14, 30});
    subspace_iteration(basis, BasisSide::kLeft, failed, own, {.sums = {.failed = sum}}, stream);
    EXPECT_EQ(*failed.data<float>(), 1.0f);
    expect_identical(basis, start);
  });
}

TEST(SubspaceIteration, DependentZeroOrNonFiniteGradientsKeepTheOldBasis) {
  for (const BasisSide side : kSides) {
    Rig rig;
    const auto rank_of_5 = [](int64_t i) { return i < 5 ? std::pow(0.7, i) : 0.0; };
    const Tensor dependent = with_singular_values({60, 45}, rank_of_5, rig.memory);
    const Tensor zeros = rig.memory.zeros({60, 45}), nan = rig.memory.normal({60, 45});
    const Tensor infinite = rig.memory.normal({60, 45});
    nan.data<float>()[1000] = std::numeric_limits<float>::quiet_NaN();
    infinite.data<float>()[1000] = -std::numeric_limits<float>::infinity();
    for (const Tensor& g : {dependent, zeros, nan, infinite}) {
      for (const int iterations : {1, 3}) {
        for (const bool rotate : {false, true}) {
          const Tensor basis = rig.random_basis(g, side, 6), before = rig.memory.copy_of(basis);
          rig.iterate(basis, side, g, iterations, rotate);
          EXPECT_TRUE(rig.has_failed());
          expect_identical(basis, before);
        }
      }
      const Tensor exact = rig.memory.normal(shape_of_basis(g.shape(), side, 6));
      const Tensor before = rig.memory.copy_of(exact);
      exact_basis(exact, side, rig.failed, g, rig.stream);
      EXPECT_TRUE(rig.has_failed());
      expect_identical(exact, before);
    }
    const Tensor basis = rig.random_basis(dependent, side, 5);
    rig.iterate(basis, side, dependent, 1);
    EXPECT_FALSE(rig.has_failed()) << "a later refresh works again";
  }
}

TEST(SubspaceIterationDeathTest, MoreVectorsThanTheGradientHasIsACallerError) {
  Rig rig;
  const Tensor g = rig.memory.normal({20, 10}), basis = rig.memory.normal({20, 11});
  EXPECT_DEATH(rig.iterate(basis, BasisSide::kLeft, g, 1), "subspace_iteration: rank 11");
}

}  // namespace
}  // namespace rankwise
