// SPDX-License-Identifier: Apache-2.0
#include "optim/projected_optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/matmul.h"
#include "optim/schedule.h"
#include "tests/optim/projected_training.h"

namespace rankwise {
namespace {

using testing::ProjectedTraining;
using testing::random_values;
using testing::values_of;
using testing::write;

using AdamW = AdamWOptimizer;
using Type = ProjectionType;

const auto kAlone = make_single_communicator();

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum);
}

// G = 3 u e1^T + u2 e2^T with u = (.6, .8), u2 = (-.8, .6). The inner AdamW multiplies eps with the
// square root of its bias correction, the reference does not.
TEST(ProjectedOptimizer, TheFirstUpdateIsThatOfTheWorkedExample) {
  for (const bool exact : {true, false}) {
    ProjectedTraining training(*kAlone);
    Parameter& p = training.add("w", {2, 3});
    const AdamWOptions adamw{.eps = 1e-6 / std::sqrt(1.0 - 0.999)};
    training.start<AdamW>({.rank = 1, .scale = 0.25, .exact = exact}, adamw);
    write(p.dense(), std::vector<float>(6, 0.0f));
    training.give(p, {1.8f, -0.8f, 0.0f, 2.4f, 0.6f, 0.0f});
    ASSERT_EQ(p.gradient.shape(), (Shape{1, 3}));
    EXPECT_NEAR(std::abs(p.gradient.data<float>()[0]), 3.0, 1e-5);
    training.step(0.01);
    const double expected[] = {-0.00149998, 0.0, 0.0, -0.00199998, 0.0, 0.0};
    // AdamW magnifies what rounding leaves of the second column.
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_NEAR(values_of(p.dense())[i], expected[i], i % 3 == 1 ? 1e-5 : 2e-8) << i;
    }
  }
}

TEST(ProjectedOptimizer, RefreshesAtItsStepsAndKeepsTheBasisBetweenThem) {
  for (const int64_t offset : {0, 50}) {
    ProjectedTraining training(*kAlone);
    Parameter& p = training.add("w", {4, 6});
    auto& optimizer =
        training.start<AdamW>({.rank = 2, .refresh = 200, .offset = offset}, AdamWOptions());
    const Tensor basis = optimizer.projection_of(p)->left;
    std::vector<int> changed;
    for (int step = 0; step < 500; ++step) {
      const std::vector<float> before = values_of(basis);
      training.train(1);
      if (values_of(basis) != before) changed.push_back(step);
    }
    EXPECT_EQ(changed,
              offset == 0 ? std::vector<int>({0, 200, 400}) : std::vector<int>({0, 50, 250, 450}));
  }
}

TEST(ProjectedOptimizer, StateHasTheSmallShapes) {
  ProjectedTraining training(*kAlone, 1, Arena::Mode::kMeasure);
  Parameter& wide = training.add("wide", {1024, 4096});
  training.add("tall", {4096, 1024});
  training.add("plain", {7});
  auto& optimizer = training.start<AdamW>({.rank = 128}, AdamWOptions());
  std::map<std::string, Shape> shapes;
  for (const auto& [name, tensor] : optimizer.state()) shapes[name] = tensor.shape();
  const std::map<std::string, Shape> expected{{"wide.projection_left", {1024, 128}},
                                              {"wide.exp_avg", {128, 4096}},
                                              {"wide.exp_avg_sq", {128, 4096}},
                                              {"wide.projection_status", {2}},
                                              {"tall.projection_right", {128, 1024}},
                                              {"tall.exp_avg", {4096, 128}},
                                              {"tall.exp_avg_sq", {4096, 128}},
                                              {"tall.projection_status", {2}},
                                              {"plain.exp_avg", {7}},
                                              {"plain.exp_avg_sq", {7}}};
  EXPECT_EQ(shapes, expected);
  EXPECT_EQ(optimizer.gradient_shape(wide), (Shape{128, 4096}));
}

TEST(ProjectedOptimizer, WeightDecayIsThatOfTheWholeWeight) {
  ProjectedTraining training(*kAlone);
  Parameter& p = training.add("w", {5, 9});
  training.start<AdamW>({.rank = 2}, AdamWOptions());
  training.groups()[0].weight_decay = 0.05;
  training.groups()[0].lr_factor = 2.0;
  const std::vector<float> start = values_of(p.dense());
  training.give(p, std::vector<float>(45, 0.0f));
  for (int i = 0; i < 10; ++i) training.step(0.01);
  for (size_t i = 0; i < 45; ++i) {
    EXPECT_NEAR(values_of(p.dense())[i], start[i] * std::pow(0.999, 10), 1e-6);
  }
}

TEST(ProjectedOptimizer, WeightDecayComesAfterTheUpdate) {
  const auto updated = [](double weight_decay) {
    ProjectedTraining training(*kAlone);
    Parameter& p = training.add("w", {5, 9});
    training.start<AdamW>({.rank = 2}, AdamWOptions());
    training.groups()[0].weight_decay = weight_decay;
    training.give(p, random_values({5, 9}, 3));
    training.step(0.5);
    return values_of(p.dense());
  };
  const std::vector<float> decayed = updated(0.25), expected = updated(0.0);
  for (size_t i = 0; i < 45; ++i) EXPECT_NEAR(decayed[i], 0.875 * expected[i], 1e-6);
}

TEST(ProjectedOptimizer, MomentsBelongToTheBasis) {
  const auto run = [](bool negate_basis, bool negate_moment) {
    ProjectedTraining training(*kAlone);
    Parameter& p = training.add("w", {6, 8});
    training.start<AdamW>({.rank = 3}, AdamWOptions());
    training.train(2);
    const auto state = training.state();
    if (negate_basis) scale(state.at("w.projection_left"), -1.0f, training.stream());
    if (negate_moment) scale(state.at("w.exp_avg"), -1.0f, training.stream());
    training.train(3);
    return values_of(p.dense());
  };
  const std::vector<float> expected = run(false, false);
  EXPECT_EQ(run(true, true), expected);
  EXPECT_GT(distance(run(true, false), expected), 1e-3);
}

TEST(ProjectedOptimizer, SgdOfFullRankIsPlainSgd) {
  for (const Type type : {Type::kStd, Type::kFull}) {
    for (const Shape& shape : {Shape{7, 7}, Shape{5, 11}, Shape{11, 5}}) {
      // Both bases of a matrix that is not square cannot span its whole space.
      if (type == Type::kFull && shape.dim(0) != shape.dim(1)) continue;
      for (const bool exact : {true, false}) {
        ProjectedTraining training(*kAlone);
        Parameter& projected = training.add("w", shape);
        Parameter& plain = training.add("plain", shape);
        training.start<SgdOptimizer>(
            {.type = type, .rank = 100, .refresh = 100, .scale = 1.0, .exact = exact},
            SgdOptions{0.9});
        write(plain.dense(), values_of(projected.dense()));
        for (uint64_t step = 0; step < 10; ++step) {
          const std::vector<float> g = random_values(shape, step);
          training.give(projected, g);
          training.give(plain, g);
          training.step(0.1);
        }
        EXPECT_TRUE(training.failed_refreshes().empty());
        const std::vector<float> expected = values_of(plain.dense());
        for (size_t i = 0; i < expected.size(); ++i) {
          ASSERT_NEAR(values_of(projected.dense())[i], expected[i], 2e-5);
        }
      }
    }
  }
}

TEST(ProjectedOptimizer, AdamWInAnIdentityBasisIsPlainAdamW) {
  ProjectedTraining training(*kAlone);
  Parameter& projected = training.add("w", {9, 4});
  Parameter& plain = training.add("plain", {9, 4});
  training.start<AdamW>({.rank = 4, .scale = 1.0}, AdamWOptions());
  write(plain.dense(), values_of(projected.dense()));
  const Tensor& basis = training.optimizer().projection_of(projected)->right;
  write(basis, {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1});
  for (uint64_t step = 0; step < 10; ++step) {
    const std::vector<float> g = random_values({9, 4}, step);
    write(projected.gradient, g);
    write(plain.gradient, g);
    training.step(0.1);
  }
  for (size_t i = 0; i < 36; ++i) {
    ASSERT_NEAR(values_of(projected.dense())[i], values_of(plain.dense())[i], 1e-6);
  }
}

// Loss |(W - W*) X|^2 / 2 with W - W* of rank 3 at the start: the gradients stay in its column
// space, which is all that a left basis has to find.
TEST(ProjectedOptimizer, APlantedProblemOfLowRankConverges) {
  constexpr int64_t kOut = 24, kIn = 40, kPlanted = 3;
  ProjectedTraining training(*kAlone);
  Parameter& p = training.add("w", {kOut, kIn});
  training.start<AdamW>({.rank = kPlanted, .refresh = 50, .scale = 1.0}, AdamWOptions());
  testing::GuardedMemory memory;
  const Tensor target = memory.copy_of(p.dense()), difference = memory.zeros({kOut, kIn});
  matmul(target, memory.normal({kOut, kPlanted}), memory.normal({kPlanted, kIn}), {.beta = 1.0f},
         training.stream());
  const Tensor x = memory.normal({kIn, 4 * kIn}), covariance = memory.zeros({kIn, kIn});
  matmul(covariance, x, x, {.transpose_b = true, .alpha = 0.25f / kIn}, training.stream());
  const Tensor g = memory.zeros({kOut, kIn});
  const double before = distance(values_of(p.dense()), values_of(target));
  const Schedule schedule(ScheduleKind::kCosine, 0.1, 0.0, 0, 1000);
  for (int64_t step = 0; step < 1000; ++step) {
    std::vector<float> values = values_of(p.dense());
    for (size_t i = 0; i < values.size(); ++i) values[i] -= target.data<float>()[i];
    write(difference, values);
    matmul(g, difference, covariance, {}, training.stream());
    training.give(p, values_of(g));
    training.step(schedule.at(step));
  }
  EXPECT_LT(distance(values_of(p.dense()), values_of(target)), 1e-3 * before);
}

TEST(ProjectedOptimizer, ARunContinuesFromItsStateBitForBit) {
  for (const Type type : {Type::kStd, Type::kFull}) {
    const ProjectionOptions options{
        .type = type, .rank = 3, .refresh = 3, .offset = 1, .rotate_moments = true};
    const auto start = [&](ProjectedTraining& training) {
      training.add("a", {8, 12});
      training.add("plain", {4, 4});
      training.add("b", {12, 6});
      training.start<AdamW>(options, AdamWOptions());
    };
    ProjectedTraining first(*kAlone), second(*kAlone);
    start(first);
    start(second);
    first.train(3);
    const auto from = first.state(), to = second.state();
    ASSERT_EQ(from.size(), to.size());
    for (const auto& [name, tensor] : from) write(to.at(name), values_of(tensor));
    for (size_t i = 0; i < 3; ++i) {
      write(second.parameters()[i].dense(), values_of(first.parameters()[i].dense()));
    }
    second.optimizer().set_steps_taken(first.optimizer().steps_taken());
    first.train(5);
    second.train(5);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(values_of(second.parameters()[i].dense()),
                values_of(first.parameters()[i].dense()));
    }
  }
}

// Against fp32 moments of the same gradients; those of surrogates of at least 4096 elements are in
// 8 bits.
TEST(ProjectedOptimizer, InnerMomentsOf8BitsFollowThoseOf32) {
  const auto change = [](auto inner) {
    ProjectedTraining training(*kAlone);
    Parameter& p = training.add("w", {96, 128});
    training.start<decltype(inner)>({.rank = 48, .refresh = 10}, AdamWOptions());
    std::vector<float> start = values_of(p.dense());
    training.train(30);
    EXPECT_EQ(training.state().at("w.exp_avg").dtype(),
              (std::is_same_v<decltype(inner), AdamW>) ? DType::kF32 : DType::kU8);
    for (size_t i = 0; i < start.size(); ++i) start[i] = p.dense().data<float>()[i] - start[i];
    return start;
  };
  Arena arena;
  Stream stream;
  const std::vector<float> full = change(AdamW({}, {}, arena, stream));
  const std::vector<float> coded = change(AdamW8bitOptimizer({}, {}, arena, stream));
  const double error = distance(coded, full);
  EXPECT_GT(error, 0.0);
  EXPECT_LT(error, 0.03 * distance(full, std::vector<float>(full.size(), 0.0f)));
}

TEST(ProjectedOptimizer, MeasuringPlansTheBytesOfARealRun) {
  const auto bytes = [](Arena::Mode mode) {
    ProjectedTraining training(*kAlone, 1, mode);
    training.add("a", {30, 50});
    training.add("plain", {20, 20});
    training.start<AdamW>({.rank = 5, .refresh = 2, .rotate_moments = true}, AdamWOptions());
    training.train(mode == Arena::Mode::kMeasure ? 1 : 4);
    return std::pair(training.arena().peak_bytes(), training.stream().scratch_peak_bytes());
  };
  EXPECT_EQ(bytes(Arena::Mode::kMeasure), bytes(Arena::Mode::kReserve));
}

TEST(ProjectedOptimizerDeathTest, OtherGroupsAndMomentsThatCannotBeRotatedAreOurMistakes) {
  ProjectedTraining training(*kAlone);
  Parameter& p = training.add("p", {3, 4});
  Parameter& q = training.add("q", {3, 4});
  auto& optimizer = training.start<AdamW>({.rank = 2}, AdamWOptions());
  training.train(1);
  const std::vector<ParameterGroup> swapped{{"all", {&q, &p}, 1.0, 0.0}};
  EXPECT_DEATH(optimizer.step(swapped, 0.1, 1.0f, training.stream()), "q: not the groups");
  const std::vector<ParameterGroup> fewer{{"all", {&p}, 1.0, 0.0}};
  EXPECT_DEATH(optimizer.step(fewer, 0.1, 1.0f, training.stream()), "1 of 2 projected");
  const ProjectionOptions rotating{.rank = 2, .rotate_moments = true};
  EXPECT_DEATH(training.start<SgdOptimizer>(rotating, SgdOptions{0.9}), "no fp32 moment");
}

}  // namespace
}  // namespace rankwise
