// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_identical;
using testing::GuardedMemory;

void update(const AdamWTensors& tensors, float gradient_scale, const AdamWParams& params) {
  Stream stream;
  adamw(std::array{tensors}, gradient_scale, params, stream);
}

// With a large eps the variants of AdamW differ in the first step: decay before the update and eps
// added to the corrected root give 0.9066667, decay after it 0.9075, an uncorrected eps 0.9764838.
TEST(AdamW, DecaysFirstAndAddsEpsToTheCorrectedRoot) {
  GuardedMemory memory;
  const Tensor p = memory.of<float>({1}, {1.0f});
  const Tensor m = memory.zeros({1});
  const Tensor v = memory.zeros({1});
  const AdamWParams params{.lr = 0.1, .eps = 0.1, .weight_decay = 0.1, .step = 1};
  update({p, m, v, memory.of<float>({1}, {0.5f})}, 1.0f, params);
  EXPECT_NEAR(0.9066667, p.data<float>()[0], 1e-7);
}

// Worked by hand with lr 0.1, betas 0.5 and 0.75, eps 0, no decay; gradients 1, -1, 2:
//   t  m       v         m / (1 - b1^t)  v / (1 - b2^t)   step
//   1  0.5     0.25      1               1                -0.1
//   2  -0.25   0.4375    -1/3            1                +0.1 / 3
//   3  0.875   1.328125  1               2.2972973        -0.1 / 1.5156838
TEST(AdamW, FollowsThreeStepsWorkedByHand) {
  GuardedMemory memory;
  const Tensor p = memory.of<float>({1}, {2.0f});
  const Tensor m = memory.zeros({1});
  const Tensor v = memory.zeros({1});
  AdamWParams params{.lr = 0.1, .beta1 = 0.5, .beta2 = 0.75, .eps = 0.0};
  const std::vector<float> gradients{1.0f, -1.0f, 2.0f};
  const std::vector<double> means{0.5, -0.25, 0.875};
  const std::vector<double> squares{0.25, 0.4375, 1.328125};
  const std::vector<double> weights{1.9, 1.9333333, 1.8673565};
  for (size_t t = 0; t < 3; ++t) {
    params.step = static_cast<int64_t>(t) + 1;
    update({p, m, v, memory.of<float>({1}, {gradients[t]})}, 1.0f, params);
    EXPECT_NEAR(means[t], m.data<float>()[0], 1e-7);
    EXPECT_NEAR(squares[t], v.data<float>()[0], 1e-7);
    EXPECT_NEAR(weights[t], p.data<float>()[0], 3e-7);
  }
}

TEST(AdamW, AgreesWithDoublePrecisionReferenceInEveryElement) {
  for (const int64_t count : {1, 3, 65, 40001}) {
    GuardedMemory memory;
    const Tensor p = memory.normal({count});
    const Tensor m = memory.normal({count}, 0.1f);
    const Tensor v = memory.uniform({count}, 0.0f, 0.1f);
    const Tensor g = memory.normal({count});
    const AdamWParams params{.lr = 0.01, .weight_decay = 0.1, .step = 5};
    const float clip = 0.25f;
    std::vector<double> expected;
    for (int64_t i = 0; i < count; ++i) {
      const double grad = static_cast<double>(g.data<float>()[i]) * clip;
      const double mean = 0.9 * m.data<float>()[i] + 0.1 * grad;
      const double square = 0.999 * v.data<float>()[i] + 0.001 * grad * grad;
      const double root = std::sqrt(square) / std::sqrt(1.0 - std::pow(0.999, 5.0));
      expected.push_back(p.data<float>()[i] * (1.0 - 0.01 * 0.1) -
                         0.01 / (1.0 - std::pow(0.9, 5.0)) * mean / (root + 1e-8));
    }
    update({p, m, v, g}, clip, params);
    expect_close(p, expected, 1e-6, 1e-6);
  }
}

TEST(AdamW, LeavesWeightsAloneWithoutGradientOrDecay) {
  GuardedMemory memory;
  const Tensor p = memory.normal({33});
  const Tensor before = memory.copy_of(p);
  update({p, memory.zeros({33}), memory.zeros({33}), memory.zeros({33})}, 1.0f, {});
  expect_identical(p, before);
}

TEST(AdamW, UpdatesEveryTensorOfAList) {
  GuardedMemory memory;
  std::vector<AdamWTensors> list;
  std::vector<AdamWTensors> single;
  for (const int64_t count : {5, 1, 700}) {
    list.push_back({memory.normal({count}), memory.normal({count}),
                    memory.uniform({count}, 0.0f, 1.0f), memory.normal({count})});
    const AdamWTensors& t = list.back();
    single.push_back({memory.copy_of(t.p), memory.copy_of(t.m), memory.copy_of(t.v), t.g});
  }
  Stream stream;
  adamw(list, 0.5f, {}, stream);
  for (size_t i = 0; i < list.size(); ++i) {
    update(single[i], 0.5f, {});
    expect_identical(list[i].p, single[i].p);
    expect_identical(list[i].m, single[i].m);
    expect_identical(list[i].v, single[i].v);
  }
}

// I = 0.4, 0.1, 0.3 with betas 0.85. With the sensitivity from before the step the first
// uncertainty would be 0.06.
TEST(AdamW, ImportanceFollowsThreeStepsWorkedByHand) {
  GuardedMemory memory;
  const Tensor p = memory.of<float>({1}, {-1.0f});
  const Importance importance{memory.zeros({1}), memory.zeros({1})};
  const std::vector<float> gradients{0.4f, -0.1f, 0.3f};
  const std::vector<double> sensitivity{0.06, 0.066, 0.1011};
  const std::vector<double> uncertainty{0.051, 0.04845, 0.0710175};
  const std::vector<double> score{0.00306, 0.0031977, 0.00717987};
  for (size_t t = 0; t < 3; ++t) {
    const Tensor g = memory.of<float>({1}, {gradients[t]});
    update({p, memory.zeros({1}), memory.zeros({1}), g, importance}, 1.0f, {.lr = 0.0});
    const float s = importance.sensitivity.data<float>()[0];
    const float u = importance.uncertainty.data<float>()[0];
    EXPECT_NEAR(sensitivity[t], s, 1e-7);
    EXPECT_NEAR(uncertainty[t], u, 1e-7);
    EXPECT_NEAR(score[t], s * u, 1e-8);
  }
}

TEST(AdamW, ImportanceTakesTheNewWeightAndTheClippedGradientAndChangesNothingElse) {
  for (const int64_t count : {1, 3, 65, 40001}) {
    GuardedMemory memory;
    const AdamWTensors plain{memory.normal({count}), memory.normal({count}, 0.1f),
                             memory.uniform({count}, 0.0f, 0.1f), memory.normal({count})};
    AdamWTensors scored{memory.copy_of(plain.p), memory.copy_of(plain.m), memory.copy_of(plain.v),
                        plain.g};
    scored.importance = {memory.uniform({count}, 0.0f, 1.0f), memory.uniform({count}, 0.0f, 1.0f)};
    const auto& [s, u] = scored.importance;
    const Tensor old_s = memory.copy_of(s);
    const Tensor old_u = memory.copy_of(u);
    AdamWParams params{.lr = 0.1, .weight_decay = 0.1, .step = 3};
    params.importance_beta1 = 0.7;
    params.importance_beta2 = 0.4;
    update(plain, 0.25f, params);
    update(scored, 0.25f, params);
    expect_identical(scored.p, plain.p);
    expect_identical(scored.m, plain.m);
    expect_identical(scored.v, plain.v);
    std::vector<double> expected_s;
    std::vector<double> expected_u;
    for (int64_t i = 0; i < count; ++i) {
      const double now = std::abs(0.25 * plain.p.data<float>()[i] * plain.g.data<float>()[i]);
      expected_s.push_back(0.7 * old_s.data<float>()[i] + 0.3 * now);
      expected_u.push_back(0.4 * old_u.data<float>()[i] + 0.6 * std::abs(now - expected_s.back()));
    }
    expect_close(s, expected_s, 1e-6, 1e-6);
    expect_close(u, expected_u, 1e-6, 1e-6);
  }
}

TEST(AdamWDeathTest, RefusesHalfAnImportance) {
  GuardedMemory memory;
  const Tensor x = memory.zeros({2});
  EXPECT_DEATH(update({x, x, x, x, {x, {}}}, 1.0f, {}), "uncertainty is undefined");
}

TEST(AdamWDeathTest, RefusesStepZero) {
  GuardedMemory memory;
  const Tensor x = memory.zeros({2});
  EXPECT_DEATH(update({x, x, x, x}, 1.0f, AdamWParams{.step = 0}), "step 0");
}

}  // namespace
}  // namespace rankwise
