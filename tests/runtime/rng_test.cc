// SPDX-License-Identifier: Apache-2.0
#include "runtime/rng.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace rankwise {
namespace {

struct Moments {
  double mean = 0.0;
  double variance = 0.0;
  double kurtosis = 0.0;
  double largest = 0.0;  // absolute
};

Moments moments_of(const std::vector<float>& values) {
  Moments result;
  for (const float value : values) {
    result.mean += value;
    result.largest = std::max(result.largest, std::abs(static_cast<double>(value)));
  }
  const auto count = static_cast<double>(values.size());
  result.mean /= count;
  double fourth = 0.0;
  for (const float value : values) {
    const double square = (value - result.mean) * (value - result.mean);
    result.variance += square;
    fourth += square * square;
  }
  result.variance /= count;
  result.kurtosis = fourth / count / (result.variance * result.variance);
  return result;
}

// Known answers of Random123 for philox4x32, 10 rounds.
TEST(Rng, PhiloxGivesThePublishedVectors) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Rng::philox({0, 0}, {0, 0, 0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Rng::philox({kOnes, kOnes}, {kOnes, kOnes, kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Rng::philox({0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Checkpoints hold positions in streams, so their values must not change between versions. Expected
// values from an independent implementation of the documented derivation.
TEST(Rng, StreamIsFrozen) {
  const Rng rng(42, "lora_A", (7ull << 32) | 9);
  EXPECT_EQ(rng.bits(0), 0x4712bf29u);
  EXPECT_EQ(rng.bits((1ull << 34) + 6), 0x550655abu);
  EXPECT_EQ(rng.uniform_double(5), 0.2675718874998897);
  EXPECT_EQ(rng.below(5, 1000), 267u);
  EXPECT_FLOAT_EQ(rng.normal(3), 1.8117701289435282f);
}

TEST(Rng, SeedNameAndStepSelectUnrelatedStreams) {
  std::set<uint32_t> first_words;
  for (const uint64_t seed : {0ull, 1ull, 1ull << 32}) {
    for (const char* name : {"", "a", "b", "ab"}) {
      for (const uint64_t step : {0ull, 1ull, 1ull << 32}) {
        first_words.insert(Rng(seed, name, step).bits(0));
      }
    }
  }
  EXPECT_EQ(first_words.size(), 3u * 4 * 3);
  EXPECT_EQ(Rng(3, "x", 5).bits(11), Rng(3, "x", 5).bits(11));
}

TEST(Rng, FillEqualsSingleDraws) {
  const Rng rng(1, "fill");
  std::vector<float> uniform(103);
  std::vector<float> normal(103);
  rng.fill_uniform(uniform, 0.0f, 1.0f);
  rng.fill_normal(normal, 0.0f, 1.0f);
  for (size_t i = 0; i < uniform.size(); ++i) {
    EXPECT_EQ(uniform[i], rng.uniform(i));
    EXPECT_EQ(normal[i], rng.normal(i));
  }
}

// Kaiming-uniform with a = sqrt(5) for 1024 inputs, the initial A of LoRA: bound 1 / sqrt(1024).
TEST(Rng, UniformMatchesTheLoraInitialisation) {
  std::vector<float> values(1'000'000);
  Rng(0, "lora_A").fill_uniform(values, -0.03125f, 0.03125f);
  const Moments moments = moments_of(values);
  EXPECT_LE(moments.largest, 0.03125);
  EXPECT_GT(moments.largest, 0.0312);
  EXPECT_NEAR(moments.mean, 0.0, 5 * 0.018 / 1000);
  EXPECT_NEAR(moments.variance, 3.255e-4, 3.3e-6);
  EXPECT_NEAR(moments.kurtosis, 1.8, 0.01);
}

TEST(Rng, NormalHasItsMoments) {
  std::vector<float> values(1'000'000);
  Rng(0, "normal").fill_normal(values, 2.0f, 3.0f);
  const Moments moments = moments_of(values);
  EXPECT_NEAR(moments.mean, 2.0, 0.015);
  EXPECT_NEAR(moments.variance, 9.0, 0.07);
  EXPECT_NEAR(moments.kurtosis, 3.0, 0.03);
  const auto beyond = std::ranges::count_if(values, [](float v) { return std::abs(v - 2.0f) > 6; });
  EXPECT_NEAR(static_cast<double>(beyond) / 1e6, 0.0455, 0.001);  // two sigma
}

TEST(Rng, NormalNeighboursAreUncorrelated) {
  constexpr uint64_t kCount = 100'000;
  const Rng rng(5, "pairs");
  double product = 0.0;
  for (uint64_t i = 0; i < kCount; ++i) {
    product += static_cast<double>(rng.normal(i)) * rng.normal(i + 1);
  }
  EXPECT_NEAR(product / kCount, 0.0, 0.016);
}

TEST(Rng, UniformIsHalfOpenAndEven) {
  const Rng rng(9, "bins");
  std::array<int, 16> float_bins{};
  std::array<int, 16> double_bins{};
  constexpr int kCount = 160'000;
  for (uint64_t i = 0; i < kCount; ++i) {
    const float value = rng.uniform(i);
    const double wide = rng.uniform_double(i);
    ASSERT_TRUE(value >= 0.0f && value < 1.0f && wide >= 0.0 && wide < 1.0);
    ++float_bins[static_cast<size_t>(value * 16)];
    ++double_bins[static_cast<size_t>(wide * 16)];
  }
  double chi_square = 0.0;
  double chi_square_wide = 0.0;
  for (size_t i = 0; i < 16; ++i) {
    chi_square += std::pow(float_bins[i] - kCount / 16, 2) / (kCount / 16);
    chi_square_wide += std::pow(double_bins[i] - kCount / 16, 2) / (kCount / 16);
  }
  EXPECT_LT(chi_square, 38.0);  // 15 degrees of freedom: 0.1 % above 37.7
  EXPECT_LT(chi_square_wide, 38.0);
}

TEST(Rng, BelowStaysBelowAndReachesEverything) {
  const Rng rng(2, "below");
  std::array<int, 7> counts{};
  for (uint64_t i = 0; i < 70'000; ++i) ++counts[rng.below(i, 7)];
  for (const int count : counts) EXPECT_NEAR(count, 10'000, 400);
  EXPECT_EQ(rng.below(3, 1), 0u);
  EXPECT_LT(rng.below(0, ~uint64_t{0}), ~uint64_t{0});
}

TEST(Rng, PermutationIsABijectionWithoutPreference) {
  std::vector<uint32_t> order = Rng(1, "order").permutation(1000);
  EXPECT_FALSE(std::ranges::is_sorted(order));
  std::ranges::sort(order);
  for (uint32_t i = 0; i < 1000; ++i) ASSERT_EQ(order[i], i);
  EXPECT_TRUE(Rng(1, "order").permutation(0).empty());

  std::array<std::array<int, 4>, 4> place_of{};  // value -> place
  for (uint64_t step = 0; step < 24'000; ++step) {
    const std::vector<uint32_t> small = Rng(1, "small", step).permutation(4);
    for (size_t place = 0; place < 4; ++place) ++place_of[small[place]][place];
  }
  for (const auto& places : place_of) {
    for (const int count : places) EXPECT_NEAR(count, 6000, 300);
  }
}

}  // namespace
}  // namespace rankwise
