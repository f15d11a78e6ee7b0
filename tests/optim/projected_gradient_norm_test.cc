// SPDX-License-Identifier: Apache-2.0
// Clipping sees the global norm of projected gradients, however weights and gradients are split.
#include <gtest/gtest.h>

#include <cmath>

#include "optim/clip_gradients.h"
#include "tests/optim/projected_training.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using testing::ProjectedTraining;
using testing::random_values;
using testing::values_of;

using AdamW = AdamWOptimizer;

// Of three projected weights and one that is not, after a refresh and after a step without.
std::vector<ClipResult> clip_two_steps(Communicator& world, int tensor, ProjectionType type,
                                       const ShardSpec& spec, double max_norm) {
  ProjectedTraining training(world, tensor);
  training.add("wide", {12, 20}, spec);
  training.add("tall", {20, 12}, spec);
  training.add("square", {8, 8}, spec);
  training.add("plain", {6, 10}, spec);
  auto& optimizer = training.start<AdamW>({.type = type, .rank = 3, .refresh = 10}, AdamWOptions());
  for (Parameter& p : training.parameters()) {
    p.projection = optimizer.projection_of(p);
    if (p.projection != nullptr) p.projected_spec = optimizer.gradient_spec(p);
  }
  const Tensor sums = training.arena().allocate("sums", DType::kF64, {2});
  std::vector<ClipResult> results;
  for (uint64_t step = 0; step < 2; ++step) {
    double squares = 0.0;
    for (Parameter& p : training.parameters()) {
      training.give(p, random_values(training.whole_of(p), step, p.name));
      for (const float g : values_of(p.gradient)) squares += static_cast<double>(g) * g;
    }
    results.push_back(
        clip_gradients(training.groups(), max_norm, training.mesh(), sums, training.stream()));
    if (tensor == 1) EXPECT_NEAR(results.back().norm, std::sqrt(squares), 1e-9 * squares);
    training.step();
  }
  return results;
}

constexpr ProjectionType kTypes[] = {ProjectionType::kStd, ProjectionType::kReverseStd,
                                     ProjectionType::kLeft, ProjectionType::kRight,
                                     ProjectionType::kFull};

TEST(ProjectedGradientNorm, IsThatOfTheProjectedGradientsOnEveryLayout) {
  const auto alone = make_single_communicator();
  for (const ProjectionType type : kTypes) {
    const auto expected = clip_two_steps(*alone, 1, type, {}, 0.5);
    for (const ClipResult& result : expected) {
      EXPECT_FLOAT_EQ(result.scale, static_cast<float>(0.5 / (result.norm + 1e-6)));
    }
    run_ranks_as_threads(2, [&](Communicator& world) {
      for (const int dim : {0, 1}) {
        const auto split = clip_two_steps(world, 2, type, ShardSpec::sharded(dim), 0.5);
        for (size_t step = 0; step < split.size(); ++step) {
          EXPECT_NEAR(split[step].norm, expected[step].norm, 1e-5 * expected[step].norm)
              << "type " << static_cast<int>(type) << " dim " << dim << " step " << step;
          EXPECT_NEAR(split[step].scale, expected[step].scale, 1e-5 * expected[step].scale);
        }
      }
    });
  }
}

// Scaled gradients, but not those of the norm's own inner optimizer state: SGD follows the scale.
TEST(ProjectedGradientNorm, ItsScaleReachesTheUpdateInTheSubspace) {
  const auto alone = make_single_communicator();
  const auto change = [&](float gradient_scale) {
    ProjectedTraining training(*alone);
    Parameter& p = training.add("w", {9, 14});
    auto& optimizer = training.start<SgdOptimizer>({.rank = 4, .scale = 1.0}, SgdOptions{});
    const std::vector<float> before = values_of(p.dense());
    training.give(p, random_values({9, 14}, 1));
    optimizer.step(training.groups(), 0.1, gradient_scale, training.stream());
    std::vector<float> moved = values_of(p.dense());
    for (size_t i = 0; i < moved.size(); ++i) moved[i] -= before[i];
    return moved;
  };
  const std::vector<float> whole = change(1.0f), quarter = change(0.25f);
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(quarter[i], 0.25f * whole[i], 1e-6);
}

}  // namespace
}  // namespace rankwise
