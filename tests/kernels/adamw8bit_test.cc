// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw8bit.h"

#include <gtest/gtest.h>

#include <array>
#include <cfloat>
#include <cmath>
#include <vector>

#include "kernels/dynamic_map.h"
#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_identical;
using testing::GuardedMemory;

void update(const AdamW8bitTensors& tensors, float gradient_scale, const AdamWParams& params) {
  Stream stream;
  adamw8bit(std::array{tensors}, gradient_scale, params, stream);
}

AdamW8bitTensors with_zero_moments(GuardedMemory& memory, const Tensor& p, const Tensor& g) {
  const Shape blocks{adamw8bit_blocks(p.numel())};
  return {p,
          g,
          memory.zeros(DType::kU8, p.shape()),
          memory.zeros(blocks),
          memory.zeros(DType::kU8, p.shape()),
          memory.zeros(blocks)};
}

// The entry nearest to x; a tie goes to the even one.
int nearest(const std::array<float, 256>& map, float x) {
  int best = 0;
  for (int entry = 1; entry < 256; ++entry) {
    const float middle = (map[entry - 1] + map[entry]) * 0.5f;
    if (x > middle || (x == middle && entry % 2 == 0)) best = entry;
  }
  return best;
}

// After one step with betas 0, where m = g and v = g^2.
AdamW8bitTensors coded(GuardedMemory& memory, const std::vector<float>& gradients) {
  const Shape shape{static_cast<int64_t>(gradients.size())};
  const AdamW8bitTensors tensors =
      with_zero_moments(memory, memory.zeros(shape), memory.of<float>(shape, gradients));
  update(tensors, 1.0f, {.beta1 = 0.0, .beta2 = 0.0});
  return tensors;
}

TEST(DynamicMap, HasTheKnownEntries) {
  EXPECT_EQ(kSignedDynamicMap[0], -0.99296875f);
  EXPECT_EQ(kSignedDynamicMap[127], 0.0f);
  EXPECT_FLOAT_EQ(kSignedDynamicMap[128], 5.5e-7f);
  EXPECT_EQ(kSignedDynamicMap[190], 0.09859375f);
  EXPECT_EQ(kSignedDynamicMap[219], 0.50078125f);
  EXPECT_EQ(kSignedDynamicMap[255], 1.0f);
  EXPECT_EQ(kUnsignedDynamicMap[0], 0.0f);
  EXPECT_FLOAT_EQ(kUnsignedDynamicMap[1], 3.25e-7f);
  EXPECT_EQ(kUnsignedDynamicMap[254], 0.996484375f);
  EXPECT_EQ(kUnsignedDynamicMap[255], 1.0f);
  for (int j = 1; j <= 127; ++j) {
    ASSERT_EQ(kSignedDynamicMap[127 - j], -kSignedDynamicMap[127 + j]);
  }
}

// Every threshold and its neighbours, and floats over all magnitudes.
TEST(DynamicMap, TablesFindTheNearestEntry) {
  for (const bool has_signs : {true, false}) {
    const std::array<float, 256>& map = has_signs ? kSignedDynamicMap : kUnsignedDynamicMap;
    const int zero = has_signs ? kSignedZero : 0;
    const auto tables = dynamic_map_tables<uint8_t>(has_signs);
    std::vector<float> magnitudes{0.0f, FLT_MIN, 1.0f, std::nextafter(1.0f, 2.0f)};
    for (int entry = zero + 1; entry < 256; ++entry) {
      const float middle = (map[entry - 1] + map[entry]) * 0.5f;
      for (const float x :
           {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, 1.0f), map[entry]}) {
        magnitudes.push_back(x);
      }
    }
    for (float x = 1e-9f; x < 1.0f; x *= 1.0007f) magnitudes.push_back(x);
    for (const float x : magnitudes) {
      const uint32_t bucket = std::max(std::bit_cast<uint32_t>(x) >> tables.kShift, tables.kLowest);
      const int first = tables.first[bucket - tables.kLowest];
      ASSERT_EQ(zero + first + (x > tables.threshold[first] ? 1 : 0), nearest(map, x)) << x;
    }
  }
}

TEST(AdamW8bit, CodesAreThoseOfTheNearestEntries) {
  GuardedMemory memory;
  const AdamW8bitTensors t = coded(memory, {1.0f, 0.5f, 0.1f, -1.0f, -0.5f, -0.1f, 0.0f});
  EXPECT_EQ(t.m_absmax.data<float>()[0], 1.0f);
  const std::vector<int> m{255, 219, 190, 0, 35, 64, 127};
  for (int i = 0; i < 7; ++i) EXPECT_EQ(t.m_codes.data<uint8_t>()[i], m[i]) << i;
  for (int i = 0; i < 7; ++i) {  // v holds the squares
    const float g = t.g.data<float>()[i];
    EXPECT_EQ(t.v_codes.data<uint8_t>()[i], nearest(kUnsignedDynamicMap, g * g)) << i;
  }
}

// Both signs of a magnitude below half of the smallest entry: only the negative one is kept.
TEST(AdamW8bit, TheSignOfASmallNegativeMomentIsKept) {
  GuardedMemory memory;
  const AdamW8bitTensors t = coded(memory, {8.0f, 1e-7f, -1e-7f, -1e-30f, -0.0f});
  const uint8_t* codes = t.m_codes.data<uint8_t>();
  EXPECT_EQ(codes[1], 127);
  EXPECT_EQ(codes[2], 126);
  EXPECT_EQ(codes[3], 126);
  EXPECT_EQ(codes[4], 127);
}

// One step from given codes against the formula in double, with the same quantiser.
TEST(AdamW8bit, AgreesWithADoublePrecisionReferenceAtAllBlockEdges) {
  for (const int64_t count : {1, 255, 256, 257, 4095, 4096, 40001}) {
    GuardedMemory memory;
    AdamW8bitTensors t =
        with_zero_moments(memory, memory.normal({count}), memory.normal({count}, 1e-2f));
    const int64_t blocks = adamw8bit_blocks(count);
    t.m_absmax = memory.uniform({blocks}, 0.01f, 0.02f);
    t.v_absmax = memory.uniform({blocks}, 1e-5f, 1e-4f);
    for (int64_t i = 0; i < count; ++i) {
      t.m_codes.data<uint8_t>()[i] = static_cast<uint8_t>(i * 37 % 256);
      t.v_codes.data<uint8_t>()[i] = static_cast<uint8_t>(i * 91 % 256);
    }
    const AdamWParams params{.lr = 0.01, .weight_decay = 0.1, .step = 5};
    const double clip = 0.25;
    std::vector<double> p, m, v;
    std::vector<double> m_absmax(static_cast<size_t>(blocks));
    std::vector<double> v_absmax(static_cast<size_t>(blocks));
    for (int64_t i = 0; i < count; ++i) {
      const double g = clip * t.g.data<float>()[i];
      const auto block = static_cast<size_t>(i / 256);
      m.push_back(0.9 * kSignedDynamicMap[t.m_codes.data<uint8_t>()[i]] *
                      t.m_absmax.data<float>()[block] +
                  0.1 * g);
      v.push_back(0.999 * kUnsignedDynamicMap[t.v_codes.data<uint8_t>()[i]] *
                      t.v_absmax.data<float>()[block] +
                  0.001 * g * g);
      const double direction = m.back() / (1.0 - std::pow(0.9, 5)) /
                               (std::sqrt(v.back() / (1.0 - std::pow(0.999, 5))) + 1e-8);
      p.push_back(t.p.data<float>()[i] * (1.0 - 0.01 * 0.1) - 0.01 * direction);
      m_absmax[block] = std::max(m_absmax[block], std::abs(m.back()));
      v_absmax[block] = std::max(v_absmax[block], v.back());
    }
    update(t, static_cast<float>(clip), params);
    expect_close(t.p, p, 1e-6, 1e-5);
    expect_close(t.m_absmax, m_absmax, 0.0, 1e-6);
    expect_close(t.v_absmax, v_absmax, 0.0, 1e-6);
    // A moment within rounding of a threshold may get either neighbour.
    const auto expect_code = [](const std::array<float, 256>& map, int code, double x) {
      const int low = nearest(map, static_cast<float>(x - 1e-6 * std::abs(x)));
      const int high = nearest(map, static_cast<float>(x + 1e-6 * std::abs(x)));
      ASSERT_TRUE(code == low || code == high) << code << ", expected " << low << ", x " << x;
    };
    for (int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(i);
      const double x = m[at] / m_absmax[at / 256];
      expect_code(kSignedDynamicMap, t.m_codes.data<uint8_t>()[i], x < 0 ? std::min(x, -5e-7) : x);
      expect_code(kUnsignedDynamicMap, t.v_codes.data<uint8_t>()[i], v[at] / v_absmax[at / 256]);
    }
  }
}

TEST(AdamW8bit, DecaysFirstAndAddsEpsToTheCorrectedRoot) {
  GuardedMemory memory;
  const AdamW8bitTensors t =
      with_zero_moments(memory, memory.of<float>({1}, {1.0f}), memory.of<float>({1}, {0.5f}));
  update(t, 1.0f, {.lr = 0.1, .eps = 0.1, .weight_decay = 0.1});
  EXPECT_NEAR(t.p.data<float>()[0], 0.9066667, 1e-7);
}

// From zero moments the first step does not depend on how they are stored.
TEST(AdamW8bit, TheFirstStepIsThatOfAdamWWithTheClippedGradient) {
  GuardedMemory memory;
  const Tensor p = memory.normal({1000});
  const AdamW8bitTensors t = with_zero_moments(memory, memory.copy_of(p), memory.normal({1000}));
  const AdamWTensors full{p, memory.zeros({1000}), memory.zeros({1000}), t.g};
  const AdamWParams params{.lr = 0.01, .weight_decay = 0.1};
  update(t, 0.125f, params);
  Stream stream;
  adamw(std::array{full}, 0.125f, params, stream);
  testing::expect_close(t.p, std::vector<double>(p.data<float>(), p.data<float>() + 1000), 0.0,
                        1e-6);
}

TEST(AdamW8bit, ZeroGradientsLeaveZeroMomentsAndOnlyDecay) {
  GuardedMemory memory;
  const AdamW8bitTensors t =
      with_zero_moments(memory, memory.of<float>({2}, {1.0f, -2.0f}), memory.zeros({2}));
  for (int step = 1; step <= 3; ++step) update(t, 1.0f, {.lr = 0.1, .weight_decay = 0.1});
  EXPECT_FLOAT_EQ(t.p.data<float>()[0], 0.99f * 0.99f * 0.99f);
  EXPECT_FLOAT_EQ(t.p.data<float>()[1], -2.0f * 0.99f * 0.99f * 0.99f);
  EXPECT_EQ(t.m_absmax.data<float>()[0], 0.0f);
  EXPECT_EQ(t.v_absmax.data<float>()[0], 0.0f);
  EXPECT_EQ(t.m_codes.data<uint8_t>()[1], 127);
  EXPECT_EQ(t.v_codes.data<uint8_t>()[1], 0);
}

// Moments of all magnitudes move their weights by the rate; squares that have no normal number or
// no finite reciprocal are zero moments afterwards.
TEST(AdamW8bit, HugeAndSmallGradientsStayFinite) {
  for (const float size : {1e18f, 1e10f, 1.0f, 1e-10f, 1e-17f, 1e-25f, 1e-38f, 1e-44f}) {
    GuardedMemory memory;
    const Tensor g = memory.of<float>({3}, {size, -size, 0.0f});
    const AdamW8bitTensors t = with_zero_moments(memory, memory.zeros({3}), g);
    for (int64_t step = 1; step <= 20; ++step) update(t, 1.0f, {.lr = 0.01, .step = step});
    const float* p = t.p.data<float>();
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(std::isfinite(p[i])) << size;
    EXPECT_EQ(p[2], 0.0f);
    if (size >= 1.0f) {
      EXPECT_NEAR(p[0], -0.2, 2e-3) << size;
      EXPECT_NEAR(p[1], 0.2, 4e-3) << size;
    }
    if (size <= 1e-25f) {
      EXPECT_EQ(t.v_absmax.data<float>()[0], 0.0f) << size;
    }
  }
}

TEST(AdamW8bit, AGradientThatIsNotFiniteTouchesOnlyItsElement) {
  for (const float bad : {NAN, INFINITY, -INFINITY, 1e30f}) {
    GuardedMemory memory;
    const Tensor p = memory.normal({300});
    const Tensor g = memory.normal({300});
    const AdamW8bitTensors good = with_zero_moments(memory, memory.copy_of(p), memory.copy_of(g));
    const AdamW8bitTensors hit = with_zero_moments(memory, memory.copy_of(p), memory.copy_of(g));
    good.g.data<float>()[7] = 0.0f;
    hit.g.data<float>()[7] = bad;
    for (int64_t step = 1; step <= 3; ++step) {
      update(good, 1.0f, {.lr = 0.1, .step = step});
      update(hit, 1.0f, {.lr = 0.1, .step = step});
    }
    expect_identical(hit.p, good.p);
    expect_identical(hit.m_codes, good.m_codes);
    expect_identical(hit.v_codes, good.v_codes);
    expect_identical(hit.v_absmax, good.v_absmax);
  }
}

// Gradients with noise around a mean that differs from element to element: after 200 steps the way
// of the weights differs from that of fp32 moments by a small part of its length.
TEST(AdamW8bit, FollowsAdamWWithFp32MomentsOverManySteps) {
  GuardedMemory memory;
  constexpr int64_t kCount = 5000;
  const Tensor mean = memory.normal({kCount});
  const Tensor g = memory.zeros({kCount});
  const AdamW8bitTensors t = with_zero_moments(memory, memory.zeros({kCount}), g);
  const AdamWTensors full{memory.zeros({kCount}), memory.zeros({kCount}), memory.zeros({kCount}),
                          g};
  Stream stream;
  for (int64_t step = 1; step <= 200; ++step) {
    GuardedMemory noise(static_cast<uint64_t>(step));
    const Tensor draw = noise.normal({kCount});
    for (int64_t i = 0; i < kCount; ++i) {
      g.data<float>()[i] = mean.data<float>()[i] + draw.data<float>()[i];
    }
    const AdamWParams params{.lr = 1e-3, .step = step};
    update(t, 1.0f, params);
    adamw(std::array{full}, 1.0f, params, stream);
  }
  double difference = 0.0;
  double length = 0.0;
  for (int64_t i = 0; i < kCount; ++i) {
    difference += std::pow(t.p.data<float>()[i] - full.p.data<float>()[i], 2);
    length += std::pow(full.p.data<float>()[i], 2);
  }
  EXPECT_LT(std::sqrt(difference / length), 0.05);
  EXPECT_GT(difference, 0.0);
}

TEST(AdamW8bitDeathTest, RefusesStepZeroAndScalesOfOtherBlocks) {
  GuardedMemory memory;
  AdamW8bitTensors t = with_zero_moments(memory, memory.zeros({257}), memory.zeros({257}));
  EXPECT_DEATH(update(t, 1.0f, AdamWParams{.step = 0}), "step 0");
  t.v_absmax = memory.zeros({1});
  EXPECT_DEATH(update(t, 1.0f, {}), "v_absmax");
  t.v_codes = memory.zeros({257});
  EXPECT_DEATH(update(t, 1.0f, {}), "v_codes");
}

}  // namespace
}  // namespace rankwise
