// SPDX-License-Identifier: Apache-2.0
#include "optim/subspace_refresh.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/kernels/gradients_of_known_spectrum.h"
#include "tests/optim/projected_training.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using testing::captured_energy;
using testing::expect_orthonormal;
using testing::ProjectedTraining;
using testing::random_values;
using testing::values_of;
using testing::write;

constexpr int kRank = 17;

// Weights of 40 x 24 elements, and whole gradients by step and name.
struct Rig {
  explicit Rig(Communicator& world, int64_t bytes = 1 << 20) : training(world) {
    for (const char* name : {"a", "b", "plain", "c"}) training.add(name, {40, 24});
    training.start<AdamWOptimizer>({.rank = kRank, .refresh = 2, .scale = 1.0}, AdamWOptions());
    for (Parameter& p : training.parameters()) parameters.push_back(&p);
    refresh.emplace(training.optimizer(), parameters, bytes, training.mesh(), training.arena());
  }
  // Half of each gradient from each of two data ranks, summed over `tokens`.
  void give(const SubspaceRefresh::Round& round, uint64_t step, float poison = 0.0f) {
    refresh->begin(round, training.stream());
    EXPECT_EQ(refresh->is_open(), !round.empty());
    for (const Parameter* p : round) {
      std::vector<float> g = random_values({40, 24}, step, p->name);
      for (float& x : g) x *= 3.0f / static_cast<float>(training.mesh().data().size());
      if (p->name == "b") g[5] += poison;
      write(p->dense_gradient, g);
    }
    refresh->finish(round, 3, training.stream());
    EXPECT_FALSE(refresh->is_open());
  }

  ProjectedTraining training;
  std::vector<Parameter*> parameters;
  std::optional<SubspaceRefresh> refresh;
};

struct Alone {
  Projector projector(const ProjectionOptions& options) {
    Parameter weight;
    weight.name = "w";
    weight.weight = memory.zeros({40, 24});
    return Projector(weight, options, mesh, arena, stream);
  }

  testing::GuardedMemory memory;
  Arena arena;
  Stream stream;
  std::unique_ptr<Communicator> world = make_single_communicator();
  DeviceMesh mesh{*world, 1};
};

TEST(Projector, FollowsInTheScratchThatWasForetold) {
  for (const ProjectionType type : {ProjectionType::kStd, ProjectionType::kFull}) {
    Alone alone;
    const Projector projector = alone.projector({.type = type, .rank = 17});
    projector.refresh(alone.memory.normal({40, 24}), {}, alone.stream);
    const size_t bytes = projector.following_scratch_bytes(DType::kF32);
    std::vector<std::byte> memory(bytes + 256);
    Stream lane;
    lane.lend_scratch(memory.data() + 256 - reinterpret_cast<uintptr_t>(memory.data()) % 256,
                      bytes);
    const Tensor g = alone.memory.normal({40, 24});
    projector.refresh(g, {}, lane);
    projector.project(alone.memory.poisoned(projector.projected_shape()), g, lane);
    EXPECT_EQ(lane.scratch_peak_bytes(), bytes);
    EXPECT_EQ(projector.failed_refreshes(alone.stream), 0);
  }
}

TEST(Projector, FollowsOnlyWithoutTheHostAndOtherRanks) {
  Alone alone;
  EXPECT_TRUE(alone.projector({.rank = 16}).can_follow());
  EXPECT_FALSE(alone.projector({.rank = 15}).can_follow());
  EXPECT_FALSE(alone.projector({.rank = 16, .exact = true}).can_follow());
  EXPECT_FALSE(alone.projector({.rank = 16, .rotate_moments = true}).can_follow());
  run_ranks_as_threads(2, [&](Communicator& world) {
    for (const ShardSpec& spec : {ShardSpec::replicated(), ShardSpec::sharded(0)}) {
      ProjectedTraining training(world, 2);
      Parameter& p = training.add("w", {40, 24}, spec);
      const auto& optimizer = training.start<AdamWOptimizer>({.rank = 16}, AdamWOptions());
      EXPECT_EQ(optimizer.projector_of(p)->can_follow(), spec == ShardSpec::replicated());
    }
  });
}

TEST(SubspaceRefresh, ARoundTakesWhatFitsOfWhatIsDue) {
  const auto world = make_single_communicator();
  Rig all(*world), two(*world, 2 * 40 * 24 * 4), least(*world, 1);
  const std::vector<Parameter*>& p = all.parameters;
  EXPECT_EQ(all.refresh->rounds(), (std::vector<SubspaceRefresh::Round>{{p[0], p[1], p[3]}}));
  EXPECT_EQ(two.refresh->rounds().size(), 2u);
  EXPECT_EQ(least.refresh->rounds().size(), 3u);
  all.training.step();
  EXPECT_TRUE(all.refresh->rounds().empty());
}

TEST(SubspaceRefresh, GivesBasesAndProjectedGradientsOfTheMeanOnAllDataRanks) {
  for (const int ranks : {1, 2}) {
    run_ranks_as_threads(ranks, [&](Communicator& world) {
      Rig rig(world);
      for (const uint64_t step : {0, 2, 4}) {
        rig.give(rig.refresh->rounds()[0], step);
        for (Parameter* p : rig.parameters) {
          const Projection* projection = rig.training.optimizer().projection_of(*p);
          if (projection == nullptr) continue;
          testing::GuardedMemory memory;
          Stream stream;
          const Tensor g = memory.of<float>({40, 24}, random_values({40, 24}, step, p->name));
          expect_orthonormal(projection->right, BasisSide::kRight, 1e-5);
          const Tensor exact = memory.poisoned({kRank, 24}), failed = memory.poisoned({1});
          exact_basis(exact, BasisSide::kRight, failed, g, stream);
          EXPECT_GE(captured_energy(projection->right, BasisSide::kRight, g),
                    0.98 * captured_energy(exact, BasisSide::kRight, g));
          const Tensor expected = memory.poisoned({40, kRank});
          project(expected, g, *projection, stream);
          const auto found = values_of(p->gradient), wanted = values_of(expected);
          for (size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(found[i], wanted[i], 1e-5);
        }
        rig.training.step();
        rig.training.step();
      }
      EXPECT_TRUE(rig.training.failed_refreshes().empty());
    });
  }
}

TEST(SubspaceRefresh, AFailureIsCountedAndKeepsTheBasisOfItsWeight) {
  const auto world = make_single_communicator();
  Rig rig(*world);
  rig.give(rig.refresh->rounds()[0], 0);
  rig.training.step();
  rig.training.step();
  const auto& optimizer = rig.training.optimizer();
  const Tensor &a = optimizer.projection_of(*rig.parameters[0])->right,
               &b = optimizer.projection_of(*rig.parameters[1])->right;
  const auto a_before = values_of(a), b_before = values_of(b);
  rig.give(rig.refresh->rounds()[0], 2, std::numeric_limits<float>::infinity());
  EXPECT_NE(values_of(a), a_before);
  EXPECT_EQ(values_of(b), b_before);
  EXPECT_EQ(rig.training.failed_refreshes(), (std::map<std::string, int64_t>{{"b", 1}}));
}

TEST(SubspaceRefresh, FailuresOfARestoredStateAreNoNews) {
  const auto world = make_single_communicator();
  Rig rig(*world);
  const float infinity = std::numeric_limits<float>::infinity();
  const auto next = [&](uint64_t step, float poison) {
    const SubspaceRefresh::Round round = rig.refresh->rounds().at(0);
    rig.give(round, step, poison);
    rig.training.step();
    rig.training.step();
    return rig.refresh->without_basis(round, rig.training.stream());
  };
  const std::vector<const Parameter*> b = {rig.parameters[1]};
  EXPECT_EQ(next(0, infinity), b);
  EXPECT_TRUE(next(2, 0.0f).empty());
  // As a later start makes it, over an optimizer with the state of this one.
  rig.refresh.emplace(rig.training.optimizer(), rig.parameters, 1 << 20, rig.training.mesh(),
                      rig.training.arena());
  EXPECT_TRUE(next(4, 0.0f).empty());
  EXPECT_EQ(next(6, infinity), b);
}

}  // namespace
}  // namespace rankwise
