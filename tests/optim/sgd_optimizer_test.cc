// SPDX-License-Identifier: Apache-2.0
#include "optim/sgd_optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/optim/trained_parameters.h"

namespace rankwise {
namespace {

using testing::gradient;
using testing::TrainedParameters;
using testing::weight;

TEST(SgdOptimizer, FollowsTheFormulaOverManySteps) {
  for (const double momentum : {0.0, 0.9}) {
    TrainedParameters parameters;
    Stream stream;
    Parameter& p = parameters.add("p", {0.3f, -2.0f});
    const std::vector<ParameterGroup> groups{{"all", {&p}, 2.0, 0.05}};
    SgdOptimizer optimizer(groups, {momentum}, parameters.arena(), stream);
    double expected[] = {0.3f, -2.0f}, buffer[] = {0.0, 0.0};
    for (int t = 1; t <= 20; ++t) {
      const double lr = 0.1 / t;
      for (int i = 0; i < 2; ++i) {
        const double g = std::sin(1.7 * t + i);
        gradient(p, i) = static_cast<float>(2.0 * g);
        buffer[i] = momentum * buffer[i] + g;
        expected[i] = expected[i] * (1.0 - 2.0 * lr * 0.05) - 2.0 * lr * buffer[i];
      }
      const float given = gradient(p);
      optimizer.step(groups, lr, 0.5f, stream);
      EXPECT_EQ(gradient(p), given);
      for (int i = 0; i < 2; ++i) EXPECT_NEAR(weight(p, i), expected[i], 2e-6) << t;
    }
    EXPECT_EQ(optimizer.steps_taken(), 20);
  }
}

TEST(SgdOptimizer, ARunContinuesFromItsStateBitForBit) {
  TrainedParameters parameters;
  Stream stream;
  Parameter& p = parameters.add("p", {1.0f, 2.0f, 3.0f});
  const std::vector<ParameterGroup> groups{{"all", {&p}, 1.0, 0.1}};
  const auto descend = [&](SgdOptimizer& optimizer) {
    for (int64_t i = 0; i < 3; ++i) gradient(p, i) = weight(p, i) - 0.3f;
    optimizer.step(groups, 0.05, 1.0f, stream);
  };
  const auto weights = [&] {
    return std::vector<float>(p.dense().data<float>(), p.dense().data<float>() + 3);
  };
  SgdOptimizer first(groups, {0.9}, parameters.arena(), stream);
  for (int i = 0; i < 3; ++i) descend(first);
  SgdOptimizer second(groups, {0.9}, parameters.arena(), stream);
  ASSERT_EQ(first.state().size(), 1u);
  EXPECT_EQ(second.state()[0].name, "p.momentum_buffer");
  std::memcpy(second.state()[0].tensor.raw(), first.state()[0].tensor.raw(), 3 * sizeof(float));
  const std::vector<float> saved = weights();
  descend(first);
  const std::vector<float> uninterrupted = weights();
  std::copy_n(saved.begin(), 3, p.dense().data<float>());
  descend(second);
  EXPECT_EQ(weights(), uninterrupted);
  EXPECT_NE(weights(), saved);
}

TEST(SgdOptimizer, WithoutMomentumItHasNoState) {
  TrainedParameters parameters;
  Stream stream;
  Parameter& p = parameters.add("p", {1.0f});
  const std::vector<ParameterGroup> groups{{"all", {&p}, 1.0, 0.0}};
  const SgdOptimizer optimizer(groups, {}, parameters.arena(), stream);
  EXPECT_TRUE(optimizer.state().empty());
}

TEST(SgdOptimizerDeathTest, OtherGroupsThanAtConstructionAreOurMistakes) {
  TrainedParameters parameters;
  Stream stream;
  Parameter& p = parameters.add("p", {1.0f});
  Parameter& q = parameters.add("q", {1.0f});
  const std::vector<ParameterGroup> groups{{"all", {&p, &q}, 1.0, 0.0}};
  SgdOptimizer optimizer(groups, {}, parameters.arena(), stream);
  const std::vector<ParameterGroup> swapped{{"all", {&q, &p}, 1.0, 0.0}};
  EXPECT_DEATH(optimizer.step(swapped, 0.1, 1.0f, stream), "q: not the groups");
  const std::vector<ParameterGroup> fewer{{"all", {&p}, 1.0, 0.0}};
  EXPECT_DEATH(optimizer.step(fewer, 0.1, 1.0f, stream), "1 of 2 parameters");
}

}  // namespace
}  // namespace rankwise
