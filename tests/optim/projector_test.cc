// SPDX-License-Identifier: Apache-2.0
#include "optim/projector.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/kernels/gradients_of_known_spectrum.h"
#include "tests/optim/projected_training.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using testing::captured_energy;
using testing::expect_identical;
using testing::expect_orthonormal;
using testing::GuardedMemory;
using testing::ProjectedTraining;
using testing::random_values;
using testing::values_of;
using testing::with_singular_values;
using testing::write;
using Type = ProjectionType;

constexpr Type kTypes[] = {Type::kStd, Type::kReverseStd, Type::kLeft, Type::kRight, Type::kFull};

struct Rig {
  GuardedMemory memory;
  Arena arena;
  Stream stream;
  std::unique_ptr<Communicator> world = make_single_communicator();
  DeviceMesh mesh{*world, 1};

  Projector projector(const Shape& shape, const ProjectionOptions& options) {
    Parameter weight;
    weight.name = "w";
    weight.weight = memory.zeros(shape);
    return Projector(weight, options, mesh, arena, stream);
  }
};

TEST(Projector, SidesFollowTheTypeAndTheShape) {
  struct Case {
    Type type;
    Shape weight;
    bool left, right;
  };
  const Shape tall{8, 5}, wide{5, 8}, square{6, 6};
  const Case cases[] = {
      {Type::kStd, tall, false, true},        {Type::kStd, wide, true, false},
      {Type::kStd, square, false, true},      {Type::kReverseStd, tall, true, false},
      {Type::kReverseStd, wide, false, true}, {Type::kReverseStd, square, true, false},
      {Type::kLeft, tall, true, false},       {Type::kLeft, wide, true, false},
      {Type::kRight, tall, false, true},      {Type::kRight, wide, false, true},
      {Type::kFull, tall, true, true},        {Type::kFull, wide, true, true}};
  for (const auto& [type, weight, left, right] : cases) {
    for (const int64_t rank : {3, 100}) {
      Rig rig;
      const Projector projector = rig.projector(weight, {.type = type, .rank = rank});
      const int64_t r = std::min({rank, weight.dim(0), weight.dim(1)});
      EXPECT_EQ(projector.projection().left.defined(), left);
      EXPECT_EQ(projector.projection().right.defined(), right);
      EXPECT_EQ(projector.projected_shape(),
                (Shape{left ? r : weight.dim(0), right ? r : weight.dim(1)}));
      EXPECT_EQ(projector.state().size(), left && right ? 3u : 2u);
    }
  }
}

TEST(Projector, FindsAndFollowsTheDominantSubspace) {
  for (const Type type : kTypes) {
    for (const int64_t rank : {4, 20}) {
      Rig rig;
      const Shape shape{60, 45};
      const Projector projector = rig.projector(shape, {.type = type, .rank = rank});
      const Projector exact = rig.projector(shape, {.type = type, .rank = rank, .exact = true});
      const auto value = [](int64_t i) { return 1.0 / static_cast<double>(i + 1); };
      for (const double drift : {0.0, 0.05, 0.05}) {
        const Tensor g = with_singular_values(shape, value, rig.memory, drift);
        projector.refresh(g, {}, rig.stream);
        exact.refresh(g, {}, rig.stream);
        for (const BasisSide side : testing::kSides) {
          const auto basis = [&](const Projector& p) {
            return side == BasisSide::kLeft ? p.projection().left : p.projection().right;
          };
          if (!basis(projector).defined()) continue;
          expect_orthonormal(basis(projector), side, 1e-5);
          EXPECT_GE(captured_energy(basis(projector), side, g),
                    0.99 * captured_energy(basis(exact), side, g));
        }
      }
      EXPECT_EQ(projector.failed_refreshes(rig.stream), 0);
    }
  }
}

TEST(Projector, OnceFoundABasisMovesFromWhereItIs) {
  Rig rig;
  const Shape shape{40, 24};
  const Projector projector = rig.projector(shape, {.rank = 17});
  const Tensor& basis = projector.projection().right;
  EXPECT_FALSE(projector.follows());
  projector.refresh(rig.memory.zeros(shape), {}, rig.stream);
  EXPECT_FALSE(projector.follows());
  projector.refresh(rig.memory.normal(shape), {}, rig.stream);
  EXPECT_TRUE(projector.follows());
  const Tensor expected = rig.memory.copy_of(basis), g = rig.memory.normal(shape);
  subspace_iteration(expected, BasisSide::kRight, rig.memory.zeros({1}), g, {.iterations = 4},
                     rig.stream);
  projector.refresh(g, {}, rig.stream);
  expect_identical(basis, expected);
}

// Their rank suffices for the basis, but not for the larger block that a random start has.
TEST(Projector, FindsTheWholeSpaceOfAGradientOfItsRank) {
  Rig rig;
  const Projector projector = rig.projector({30, 50}, {.rank = 4});
  const Tensor g = with_singular_values(
      {30, 50}, [](int64_t i) { return i < 4 ? 1.0 : 0.0; }, rig.memory);
  projector.refresh(g, {}, rig.stream);
  EXPECT_EQ(projector.failed_refreshes(rig.stream), 0);
  EXPECT_NEAR(captured_energy(projector.projection().left, BasisSide::kLeft, g), 4.0, 1e-4);
}

TEST(Projector, KeepsAndCountsWhereAGradientGivesNoBasis) {
  for (const bool exact : {false, true}) {
    Rig rig;
    const Shape shape{20, 12};
    const Projector projector = rig.projector(shape, {.rank = 5, .exact = exact});
    const Tensor& basis = projector.projection().right;
    expect_orthonormal(basis, BasisSide::kRight, 1e-5);  // random
    const Tensor zeros = rig.memory.zeros(shape), nan = rig.memory.normal(shape);
    nan.data<float>()[7] = std::numeric_limits<float>::quiet_NaN();
    const Tensor deficient = with_singular_values(
        shape, [](int64_t i) { return i < 3 ? 1.0 : 0.0; }, rig.memory);
    int64_t failures = 0;
    for (int round = 0; round < 2; ++round) {
      for (const Tensor& g : {zeros, nan, deficient}) {
        const Tensor before = rig.memory.copy_of(basis);
        projector.refresh(g, {}, rig.stream);
        expect_identical(basis, before);
        EXPECT_EQ(projector.failed_refreshes(rig.stream), ++failures);
      }
      const Tensor before = rig.memory.copy_of(basis);
      projector.refresh(rig.memory.normal(shape), {}, rig.stream);
      EXPECT_EQ(projector.failed_refreshes(rig.stream), failures);
      EXPECT_NE(values_of(basis), values_of(before));
    }
  }
}

// What moments stand for in the space of the weight, projected on the new basis.
TEST(Projector, RotatesMomentsIntoTheNewBasis) {
  for (const Type type : kTypes) {
    Rig rig;
    const Shape shape{9, 14};
    const Projector projector = rig.projector(shape, {.type = type, .rank = 4});
    projector.refresh(rig.memory.normal(shape), {}, rig.stream);
    const Tensor moment = rig.memory.normal(projector.projected_shape());
    const Tensor back = rig.memory.zeros(shape), expected = rig.memory.zeros(moment.shape());
    add_back_projection(back, moment, projector.projection(), {}, rig.stream);
    projector.refresh(rig.memory.normal(shape), moment, rig.stream);
    projector.project(expected, back, rig.stream);
    for (size_t i = 0; i < values_of(moment).size(); ++i) {
      ASSERT_NEAR(values_of(moment)[i], values_of(expected)[i], 1e-5);
    }
  }
}

TEST(Projector, ASplitWeightGetsTheUpdateOfTheWhole) {
  for (const Type type : kTypes) {
    for (const bool exact : {false, true}) {
      const ProjectionOptions options{.type = type,
                                      .rank = 6,
                                      .refresh = 3,
                                      .scale = 1.0,
                                      .exact = exact,
                                      .rotate_moments = true};
      const AdamWOptions adamw{.eps = 0.1};  // so that it does not magnify rounding
      const auto run = [&](ProjectedTraining& training, const ShardSpec& spec) {
        training.add("wide", {23, 40}, spec);
        training.add("tall", {40, 23}, spec);
        training.add("flat", {7, 30}, spec);  // a rank has fewer rows than there are vectors
        training.start<AdamWOptimizer>(options, adamw);
        training.train(8);
        EXPECT_TRUE(training.failed_refreshes().empty());
      };
      const auto alone = make_single_communicator();
      ProjectedTraining whole(*alone);
      run(whole, {});
      run_ranks_as_threads(2, [&](Communicator& world) {
        for (const int dim : {0, 1}) {
          ProjectedTraining split(world, 2);
          run(split, ShardSpec::sharded(dim));
          for (size_t i = 0; i < 3; ++i) {
            const Parameter& p = split.parameters()[i];
            const auto expected = split.part(values_of(whole.parameters()[i].dense()), p);
            const auto actual = values_of(p.dense());
            for (size_t k = 0; k < expected.size(); ++k) {
              ASSERT_NEAR(actual[k], expected[k], 1e-5)
                  << p.name << " type " << static_cast<int>(type) << " dim " << dim;
            }
          }
        }
      });
    }
  }
}

TEST(Projector, AFailureOnOneRankIsOneOfAll) {
  run_ranks_as_threads(2, [&](Communicator& world) {
    for (const int dim : {0, 1}) {
      ProjectedTraining training(world, 2);
      Parameter& p = training.add("w", {12, 20}, ShardSpec::sharded(dim));
      auto& optimizer = training.start<AdamWOptimizer>({.rank = 3}, AdamWOptions());
      const std::vector<float> before = values_of(optimizer.projection_of(p)->left);
      std::vector<float> g = random_values({12, 20}, 1);
      g.back() = std::numeric_limits<float>::infinity();  // on the second rank
      training.give(p, g);
      EXPECT_EQ(values_of(optimizer.projection_of(p)->left), before);
      EXPECT_EQ(training.failed_refreshes(), (std::map<std::string, int64_t>{{"w", 1}}));
    }
  });
}

TEST(Projector, GradientsOfASplitWeightAreSplitWhereTheyKeepItsDimension) {
  run_ranks_as_threads(2, [&](Communicator& world) {
    for (const Type type : kTypes) {
      for (const int dim : {0, 1}) {
        ProjectedTraining training(world, 2);
        const ShardSpec spec = ShardSpec::sharded(dim);
        Parameter& p = training.add("w", {12, 20}, spec);
        auto& optimizer = training.start<AdamWOptimizer>({.type = type, .rank = 3}, AdamWOptions());
        const Projection& projection = *optimizer.projection_of(p);
        const bool kept = !(dim == 0 ? projection.left : projection.right).defined();
        EXPECT_EQ(optimizer.gradient_spec(p), kept ? spec : ShardSpec::replicated());
        EXPECT_EQ(optimizer.gradient_shape(p).dim(dim), kept ? (dim == 0 ? 6 : 10) : 3);
      }
    }
  });
}

TEST(Projector, ARankOfTheDataAxisRefreshesForTheOthers) {
  run_ranks_as_threads(2, [&](Communicator& world) {
    ProjectedTraining training(world);
    Parameter& p = training.add("w", {12, 20});
    auto& optimizer = training.start<AdamWOptimizer>(
        {.rank = 3, .refresh = 2, .rotate_moments = true}, AdamWOptions());
    for (int step = 0; step < 4; ++step) {
      const bool due = optimizer.is_due(p);
      EXPECT_EQ(due, step % 2 == 0);
      const int root = step / 2;
      if (!due || world.rank() == root) {
        training.give(p, random_values({12, 20}, static_cast<uint64_t>(step)));
      }
      if (due) optimizer.broadcast(p, root, training.stream());
      training.step();
    }
    // As on one rank that refreshes itself.
    const auto alone = make_single_communicator();
    ProjectedTraining single(*alone);
    Parameter& expected = single.add("w", {12, 20});
    single.start<AdamWOptimizer>({.rank = 3, .refresh = 2, .rotate_moments = true}, AdamWOptions());
    for (uint64_t step = 0; step < 4; ++step) {
      single.give(expected, random_values({12, 20}, step));
      single.step();
    }
    EXPECT_EQ(values_of(p.dense()), values_of(expected.dense()));
  });
}

}  // namespace
}  // namespace rankwise
