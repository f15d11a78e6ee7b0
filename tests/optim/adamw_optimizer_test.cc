// SPDX-License-Identifier: Apache-2.0
#include "optim/adamw_optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "optim/schedule.h"
#include "tests/optim/trained_parameters.h"

namespace rankwise {
namespace {

using testing::gradient;
using testing::TrainedParameters;
using testing::weight;

TEST(AdamWOptimizer, FirstStepFollowsTorchOrder) {
  // p 1, g 0.5, lr 0.1, weight decay 0.1, eps 0.1. Decay after the update gives 0.9075 instead,
  // eps outside the bias correction 0.9764838.
  TrainedParameters parameters;
  Stream stream;
  Parameter& p = parameters.add("p", {1.0f});
  const std::vector<ParameterGroup> groups{{"all", {&p}, 1.0, 0.1}};
  AdamWOptimizer optimizer(groups, {.eps = 0.1}, parameters.arena(), stream);
  gradient(p) = 0.5f;
  optimizer.step(groups, 0.1, 1.0f, stream);
  EXPECT_NEAR(weight(p), 0.9066667, 1e-7);
}

TEST(AdamWOptimizer, FollowsTheFormulaOverManySteps) {
  TrainedParameters parameters;
  Stream stream;
  Parameter& p = parameters.add("p", {0.3f});
  const std::vector<ParameterGroup> groups{{"all", {&p}, 2.0, 0.05}};
  AdamWOptimizer optimizer(groups, {.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-3}, parameters.arena(),
                           stream);
  double expected = 0.3f;
  double m = 0.0;
  double v = 0.0;
  for (int t = 1; t <= 20; ++t) {
    const double g = std::sin(1.7 * t);
    gradient(p) = static_cast<float>(2.0 * g);
    const double lr = 0.01 / t;
    optimizer.step(groups, lr, 0.5f, stream);
    m = 0.8 * m + 0.2 * g;
    v = 0.95 * v + 0.05 * g * g;
    expected *= 1.0 - 2.0 * lr * 0.05;
    expected -= 2.0 * lr * (m / (1.0 - std::pow(0.8, t))) /
                (std::sqrt(v / (1.0 - std::pow(0.95, t))) + 1e-3);
    EXPECT_NEAR(weight(p), expected, 1e-6) << "step " << t;
  }
}

TEST(AdamWOptimizer, ConvergesOnAQuadratic) {
  // f = 1/2 sum c_i (x_i - target_i)^2 with curvatures over three orders of magnitude.
  TrainedParameters parameters;
  Stream stream;
  Parameter& p = parameters.add("p", {5.0f, -3.0f, 0.0f});
  const float target[] = {1.0f, 2.0f, -4.0f};
  const float curvature[] = {0.1f, 1.0f, 100.0f};
  const std::vector<ParameterGroup> groups{{"all", {&p}, 1.0, 0.0}};
  AdamWOptimizer optimizer(groups, {}, parameters.arena(), stream);
  const Schedule schedule(ScheduleKind::kCosine, 0.1, 0.0, 10, 600);
  for (int64_t step = 0; step < 600; ++step) {
    for (int64_t i = 0; i < 3; ++i) gradient(p, i) = curvature[i] * (weight(p, i) - target[i]);
    optimizer.step(groups, schedule.at(step), 1.0f, stream);
  }
  for (int64_t i = 0; i < 3; ++i) EXPECT_NEAR(weight(p, i), target[i], 1e-3);
}

TEST(AdamWOptimizer, StateRoundTripsThroughItsNames) {
  TrainedParameters parameters;
  Stream stream;
  Parameter& p = parameters.add("a", {1.0f, -1.0f});
  Parameter& q = parameters.add("b", {2.0f});
  const std::vector<ParameterGroup> groups{{"first", {&p}, 1.0, 0.0}, {"second", {&q}, 1.0, 0.1}};
  const auto descend = [&](AdamWOptimizer& optimizer) {
    for (int64_t i = 0; i < 2; ++i) gradient(p, i) = weight(p, i);
    gradient(q) = std::sin(weight(q));
    optimizer.step(groups, 0.01, 1.0f, stream);
  };
  AdamWOptimizer first(groups, {}, parameters.arena(), stream);
  for (int i = 0; i < 3; ++i) descend(first);

  AdamWOptimizer second(groups, {}, parameters.arena(), stream);
  const std::vector<NamedTensor> from = first.state();
  const std::vector<NamedTensor> to = second.state();
  const char* names[] = {"a.exp_avg", "a.exp_avg_sq", "b.exp_avg", "b.exp_avg_sq"};
  ASSERT_EQ(from.size(), 4u);
  for (size_t i = 0; i < from.size(); ++i) {
    EXPECT_EQ(from[i].name, names[i]);
    EXPECT_EQ(to[i].name, names[i]);
    EXPECT_EQ(to[i].tensor.data<float>()[0], 0.0f);
    std::memcpy(to[i].tensor.raw(), from[i].tensor.raw(), from[i].tensor.bytes());
  }
  second.set_steps_taken(first.steps_taken());
  EXPECT_EQ(second.steps_taken(), 3);

  const float saved[] = {weight(p, 0), weight(p, 1), weight(q)};
  descend(first);
  const float uninterrupted[] = {weight(p, 0), weight(p, 1), weight(q)};
  weight(p, 0) = saved[0];
  weight(p, 1) = saved[1];
  weight(q) = saved[2];
  descend(second);
  EXPECT_EQ(weight(p, 0), uninterrupted[0]);
  EXPECT_EQ(weight(p, 1), uninterrupted[1]);
  EXPECT_EQ(weight(q), uninterrupted[2]);
}

TEST(AdamWOptimizer, KeepsTheImportanceOfWantedParametersUntilItIsFrozen) {
  TrainedParameters parameters;
  Stream stream;
  Parameter& norm = parameters.add("norm", {1.0f});
  Parameter& e = parameters.add("lora_E", {2.0f});
  const std::vector<ParameterGroup> groups{{"all", {&norm, &e}, 1.0, 0.0}};
  const ImportanceOptions importance{
      .wanted = [](const Parameter& p) { return p.name == "lora_E"; }, .beta1 = 0.5, .beta2 = 0.75};
  AdamWOptimizer optimizer(groups, {.importance = importance}, parameters.arena(), stream);
  EXPECT_FALSE(optimizer.importance_of(norm).sensitivity.defined());
  const std::vector<NamedTensor> state = optimizer.state();
  ASSERT_EQ(state.size(), 6u);
  EXPECT_EQ(state[4].name, "lora_E.sensitivity");
  EXPECT_EQ(state[5].name, "lora_E.uncertainty");
  const float* sensitivity = optimizer.importance_of(e).sensitivity.data<float>();
  const float* uncertainty = optimizer.importance_of(e).uncertainty.data<float>();
  EXPECT_EQ(sensitivity, state[4].tensor.data<float>());
  EXPECT_EQ(*sensitivity, 0.0f);
  gradient(e) = 0.5f;
  optimizer.step(groups, 0.0, 0.5f, stream);  // |2 * 0.25| = 0.5
  EXPECT_EQ(*sensitivity, 0.25f);
  EXPECT_EQ(*uncertainty, 0.0625f);
  optimizer.measure_importance(false);
  optimizer.step(groups, 0.1, 0.5f, stream);
  EXPECT_LT(weight(e), 2.0f);
  EXPECT_EQ(*sensitivity, 0.25f);
  EXPECT_EQ(*uncertainty, 0.0625f);
}

TEST(AdamWOptimizer, MeasuringPlansTheBytesOfARealRun) {
  const auto bytes = [](Arena& arena, Stream& stream) {
    Parameter p;
    p.weight = arena.allocate("weights", DType::kF32, {33, 5});
    p.gradient = arena.allocate("gradients", DType::kF32, {33, 5});
    const std::vector<ParameterGroup> groups{{"all", {&p}, 1.0, 0.0}};
    AdamWOptimizer optimizer(groups, {}, arena, stream);
    if (stream.measuring()) optimizer.step(groups, 0.1, 1.0f, stream);
    return arena.peak_bytes();
  };
  Arena measured({}, Arena::Mode::kMeasure);
  Stream measuring({}, Stream::Mode::kMeasure);
  Arena real;
  Stream stream;
  EXPECT_EQ(bytes(measured, measuring), bytes(real, stream));
}

// LoRA on one number: y = B A x with x = 1 and loss (y - 1)^2 / 2; A starts at 1 and B at 0.
struct ScalarLora {
  TrainedParameters parameters;
  Stream stream;
  Parameter& a;
  Parameter& b;
  std::vector<ParameterGroup> groups;
  std::unique_ptr<AdamWOptimizer> optimizer;

  explicit ScalarLora(double ratio, const AdamWOptions& options = {})
      : a(parameters.add("lora_A", {1.0f})), b(parameters.add("lora_B", {0.0f})) {
    groups = {{"a", {&a}, 1.0, 0.0}, {"b", {&b}, ratio, 0.0}};
    optimizer = std::make_unique<AdamWOptimizer>(groups, options, parameters.arena(), stream);
  }
  void step(double lr) {
    const float residual = weight(b) * weight(a) - 1.0f;
    gradient(a) = residual * weight(b);
    gradient(b) = residual * weight(a);
    optimizer->step(groups, lr, 1.0f, stream);
  }
};

TEST(LoraPlus, FirstStepMovesBByRatioTimesRateAndLeavesA) {
  ScalarLora lora(16.0);
  lora.step(0.01);
  EXPECT_NEAR(weight(lora.b), 0.16, 0.16 * 1e-6);
  EXPECT_EQ(weight(lora.a), 1.0f);
}

TEST(LoraPlus, TwoStepsFollowTheTrace) {
  // With beta1 = 0 the direction is g / (sqrt(v_hat) + eps). Step 1: dB = -1, B = 16 * 0.1 = 1.6.
  // Step 2: y = 1.6, dA = 0.6 * 1.6 = 0.96, dB = 0.6. A has v = 0.001 * 0.96^2, corrected by
  // 1 - 0.999^2; B has v = 0.001 * (0.999 + 0.36).
  ScalarLora lora(16.0, {.beta1 = 0.0});
  lora.step(0.1);
  EXPECT_NEAR(weight(lora.b), 1.6, 1e-6);
  lora.step(0.1);
  const double correction = 1.0 - 0.999 * 0.999;
  EXPECT_NEAR(gradient(lora.a), 0.96, 1e-6);
  EXPECT_NEAR(gradient(lora.b), 0.6, 1e-6);
  EXPECT_NEAR(weight(lora.a), 1.0 - 0.1 * 0.96 / std::sqrt(0.001 * 0.96 * 0.96 / correction), 1e-5);
  EXPECT_NEAR(weight(lora.b), 1.6 - 1.6 * 0.6 / std::sqrt(0.001 * (0.999 + 0.36) / correction),
              1e-5);
}

TEST(LoraPlus, RatioOneIsBitIdenticalToOneGroup) {
  ScalarLora plus(1.0);
  TrainedParameters parameters;
  Stream stream;
  Parameter& a = parameters.add("lora_A", {1.0f});
  Parameter& b = parameters.add("lora_B", {0.0f});
  const std::vector<ParameterGroup> groups{{"all", {&a, &b}, 1.0, 0.0}};
  AdamWOptimizer plain(groups, {}, parameters.arena(), stream);
  for (int step = 0; step < 10; ++step) {
    plus.step(0.02);
    gradient(a) = gradient(plus.a);
    gradient(b) = gradient(plus.b);
    plain.step(groups, 0.02, 1.0f, stream);
    ASSERT_EQ(weight(a), weight(plus.a));
    ASSERT_EQ(weight(b), weight(plus.b));
  }
}

TEST(LoraPlus, RatioHoldsThroughWarmUpAndCosine) {
  // With a constant gradient every Adam step moves a parameter by its rate.
  TrainedParameters parameters;
  Stream stream;
  Parameter& a = parameters.add("lora_A", {0.0f});
  Parameter& b = parameters.add("lora_B", {0.0f});
  const std::vector<ParameterGroup> groups{{"a", {&a}, 1.0, 0.0}, {"b", {&b}, 16.0, 0.0}};
  AdamWOptimizer optimizer(groups, {}, parameters.arena(), stream);
  const Schedule schedule(ScheduleKind::kCosine, 1e-3, 0.0, 5, 30);
  for (int64_t step = 0; step < 30; ++step) {
    weight(a) = 0.0f;  // so that the move is not lost in the rounding of the weight
    weight(b) = 0.0f;
    gradient(a) = gradient(b) = 0.25f;
    optimizer.step(groups, schedule.at(step), 1.0f, stream);
    EXPECT_NEAR(weight(a), -schedule.at(step), 1e-5 * schedule.at(step));
    EXPECT_EQ(weight(b), 16.0f * weight(a)) << "step " << step;
  }
}

TEST(LoraPlus, DecayBelongsToItsGroupOnly) {
  TrainedParameters parameters;
  Stream stream;
  Parameter& norm = parameters.add("norm", {1.0f});
  Parameter& b = parameters.add("lora_B", {1.0f});
  const std::vector<ParameterGroup> groups{{"norm", {&norm}, 16.0, 0.0}, {"b", {&b}, 16.0, 0.1}};
  AdamWOptimizer optimizer(groups, {}, parameters.arena(), stream);
  optimizer.step(groups, 0.01, 1.0f, stream);  // zero gradients: only the decay moves
  EXPECT_EQ(weight(norm), 1.0f);
  EXPECT_FLOAT_EQ(weight(b), 1.0f - 0.16f * 0.1f);
}

TEST(AdamWOptimizerDeathTest, OtherGroupsThanAtConstructionAreOurMistake) {
  TrainedParameters parameters;
  Stream stream;
  Parameter& p = parameters.add("p", {1.0f});
  Parameter& q = parameters.add("q", {1.0f});
  const std::vector<ParameterGroup> groups{{"all", {&p, &q}, 1.0, 0.0}};
  AdamWOptimizer optimizer(groups, {}, parameters.arena(), stream);
  const std::vector<ParameterGroup> swapped{{"all", {&q, &p}, 1.0, 0.0}};
  EXPECT_DEATH(optimizer.step(swapped, 0.1, 1.0f, stream), "q: not the groups");
  const std::vector<ParameterGroup> fewer{{"all", {&p}, 1.0, 0.0}};
  EXPECT_DEATH(optimizer.step(fewer, 0.1, 1.0f, stream), "1 of 2 parameters");
}

}  // namespace
}  // namespace rankwise
