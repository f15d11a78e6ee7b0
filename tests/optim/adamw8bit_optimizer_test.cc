// SPDX-License-Identifier: Apache-2.0
#include "optim/adamw8bit_optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "optim/schedule.h"
#include "tests/optim/trained_parameters.h"

namespace rankwise {
namespace {

using testing::gradient;
using testing::TrainedParameters;
using testing::weight;

std::vector<float> wave(int64_t count, float scale = 1.0f) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i)
    values.push_back(scale * std::sin(0.7f * static_cast<float>(i)));
  return values;
}

// A minimum at `target` with curvatures from 0.5 to 2.
void set_gradient(Parameter& p, float target) {
  for (int64_t i = 0; i < p.gradient.numel(); ++i) {
    const float curvature = std::exp2(static_cast<float>(i % 21) / 10.0f - 1.0f);
    gradient(p, i) = curvature * (weight(p, i) - target);
  }
}

TEST(AdamW8bitOptimizer, LargeParametersHave8bitMomentsAndOthersDoNot) {
  TrainedParameters parameters;
  Stream stream;
  Parameter& small = parameters.add("small", wave(4095));
  Parameter& large = parameters.add("large", wave(4097));
  Parameter& embedding = parameters.add("embedding", wave(5000));
  embedding.role = ParameterRole::kEmbedding;
  Parameter& head = parameters.add("head", wave(4096));
  head.role = ParameterRole::kHead;
  const std::vector<ParameterGroup> groups{{"all", {&small, &large, &embedding, &head}, 1.0, 0.0}};
  const AdamW8bitOptimizer optimizer(groups, {}, parameters.arena(), stream);
  std::map<std::string, Tensor> state;
  for (const auto& [name, tensor] : optimizer.state()) state[name] = tensor;
  EXPECT_EQ(state.size(), 12u);
  for (const char* name : {"small.exp_avg", "embedding.exp_avg_sq"}) {
    EXPECT_EQ(state.at(name).dtype(), DType::kF32) << name;
    EXPECT_FALSE(state.contains(std::string(name) + "_absmax"));
  }
  for (const char* name : {"large.exp_avg", "large.exp_avg_sq", "head.exp_avg"}) {
    EXPECT_EQ(state.at(name).dtype(), DType::kU8) << name;
    EXPECT_EQ(state.at(std::string(name) + "_absmax").dtype(), DType::kF32) << name;
  }
  EXPECT_EQ(state.at("large.exp_avg").shape(), (Shape{4097}));
  EXPECT_EQ(state.at("large.exp_avg_sq_absmax").shape(), (Shape{17}));
}

// Both kinds of moments, in groups of their own rate and decay, against AdamW of fp32 moments: the
// first step depends on neither.
TEST(AdamW8bitOptimizer, TheFirstStepIsThatOfAdamW) {
  TrainedParameters parameters;
  Stream stream;
  std::vector<Parameter*> p;
  for (const char* name : {"a", "b", "c", "a", "b", "c"}) {
    p.push_back(&parameters.add(name, wave(*name == 'b' ? 5000 : 3)));
    set_gradient(*p.back(), 0.5f);
  }
  const std::vector<ParameterGroup> own{{"x", {p[0], p[1]}, 1.0, 0.1}, {"y", {p[2]}, 16.0, 0.0}};
  const std::vector<ParameterGroup> full{{"x", {p[3], p[4]}, 1.0, 0.1}, {"y", {p[5]}, 16.0, 0.0}};
  const AdamWOptions options{.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-3};
  AdamW8bitOptimizer(own, options, parameters.arena(), stream).step(own, 0.01, 0.5f, stream);
  AdamWOptimizer(full, options, parameters.arena(), stream).step(full, 0.01, 0.5f, stream);
  for (size_t k = 0; k < 3; ++k) {
    for (int64_t i = 0; i < p[k]->gradient.numel(); ++i) {
      ASSERT_NEAR(weight(*p[k], i), weight(*p[k + 3], i), 2e-7) << k << ", " << i;
    }
  }
}

TEST(AdamW8bitOptimizer, ConvergesOnAQuadratic) {
  TrainedParameters parameters;
  Stream stream;
  Parameter& p = parameters.add("p", wave(5000, 3.0f));
  const std::vector<ParameterGroup> groups{{"all", {&p}, 1.0, 0.0}};
  AdamW8bitOptimizer optimizer(groups, {}, parameters.arena(), stream);
  const Schedule schedule(ScheduleKind::kCosine, 0.1, 0.0, 10, 600);
  for (int64_t step = 0; step < 600; ++step) {
    set_gradient(p, 4.0f);
    optimizer.step(groups, schedule.at(step), 1.0f, stream);
  }
  for (int64_t i = 0; i < 5000; ++i) ASSERT_NEAR(weight(p, i), 4.0, 1e-2) << i;
}

TEST(AdamW8bitOptimizer, ARunContinuesFromItsStateBitForBit) {
  TrainedParameters parameters;
  Stream stream;
  Parameter& large = parameters.add("large", wave(5001));
  Parameter& small = parameters.add("small", wave(10));
  const std::vector<ParameterGroup> groups{{"all", {&large, &small}, 1.0, 0.01}};
  const auto descend = [&](AdamW8bitOptimizer& optimizer) {
    set_gradient(large, 0.3f);
    set_gradient(small, -0.3f);
    optimizer.step(groups, 0.01, 0.5f, stream);
  };
  const auto weights = [&] {
    std::vector<float> all(large.dense().data<float>(), large.dense().data<float>() + 5001);
    all.insert(all.end(), small.dense().data<float>(), small.dense().data<float>() + 10);
    return all;
  };
  AdamW8bitOptimizer first(groups, {}, parameters.arena(), stream);
  for (int i = 0; i < 3; ++i) descend(first);

  AdamW8bitOptimizer second(groups, {}, parameters.arena(), stream);
  const std::vector<NamedTensor> from = first.state();
  const std::vector<NamedTensor> to = second.state();
  ASSERT_EQ(from.size(), 6u);
  for (size_t i = 0; i < from.size(); ++i) {
    ASSERT_EQ(from[i].name, to[i].name);
    ASSERT_EQ(from[i].tensor.bytes(), to[i].tensor.bytes());
    std::memcpy(to[i].tensor.raw(), from[i].tensor.raw(), from[i].tensor.bytes());
  }
  second.set_steps_taken(first.steps_taken());
  const std::vector<float> saved = weights();
  for (int i = 0; i < 3; ++i) descend(first);
  const std::vector<float> uninterrupted = weights();
  std::copy_n(saved.begin(), 5001, large.dense().data<float>());
  std::copy_n(saved.begin() + 5001, 10, small.dense().data<float>());
  for (int i = 0; i < 3; ++i) descend(second);
  EXPECT_EQ(weights(), uninterrupted);
  EXPECT_NE(weights(), saved);
}

TEST(AdamW8bitOptimizer, MeasuringPlansTheBytesOfARealRun) {
  const auto bytes = [](Arena& arena, Stream& stream) {
    Parameter p;
    p.weight = arena.allocate("weights", DType::kF32, {100, 100});
    p.gradient = arena.allocate("gradients", DType::kF32, {100, 100});
    const int64_t before = arena.peak_bytes();
    const std::vector<ParameterGroup> groups{{"all", {&p}, 1.0, 0.0}};
    AdamW8bitOptimizer optimizer(groups, {}, arena, stream);
    if (stream.measuring()) optimizer.step(groups, 0.1, 1.0f, stream);
    EXPECT_NEAR(static_cast<double>(arena.peak_bytes() - before), 2.03125 * 1e4, 2048.0);
    return arena.peak_bytes();
  };
  Arena measured({}, Arena::Mode::kMeasure);
  Stream measuring({}, Stream::Mode::kMeasure);
  Arena real;
  Stream stream;
  EXPECT_EQ(bytes(measured, measuring), bytes(real, stream));
}

TEST(AdamW8bitOptimizerDeathTest, OtherGroupsThanAtConstructionAndImportanceAreOurMistakes) {
  TrainedParameters parameters;
  Stream stream;
  Parameter& p = parameters.add("p", {1.0f});
  Parameter& q = parameters.add("q", {1.0f});
  const std::vector<ParameterGroup> groups{{"all", {&p, &q}, 1.0, 0.0}};
  AdamW8bitOptimizer optimizer(groups, {}, parameters.arena(), stream);
  const std::vector<ParameterGroup> swapped{{"all", {&q, &p}, 1.0, 0.0}};
  EXPECT_DEATH(optimizer.step(swapped, 0.1, 1.0f, stream), "q: not the groups");
  const std::vector<ParameterGroup> fewer{{"all", {&p}, 1.0, 0.0}};
  EXPECT_DEATH(optimizer.step(fewer, 0.1, 1.0f, stream), "1 of 2 parameters");
  AdamWOptions options;
  options.importance.wanted = [](const Parameter&) { return true; };
  EXPECT_DEATH(AdamW8bitOptimizer(groups, options, parameters.arena(), stream), "no importance");
}

}  // namespace
}  // namespace rankwise
