// SPDX-License-Identifier: Apache-2.0
#include "runtime/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "runtime/device.h"

namespace rankwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(DType, NamesAndBitsFollowSafetensors) {
  EXPECT_EQ(name_of(DType::kBF16), "BF16");
  EXPECT_EQ(bits_of(DType::kF4), 4);
  EXPECT_EQ(bits_of(DType::kF6E3M2), 6);
  EXPECT_EQ(bits_of(DType::kBool), 8);
  EXPECT_EQ(bits_of(DType::kC64), 64);
  for (int i = 0; i <= static_cast<int>(DType::kU64); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_name(name_of(dtype)), dtype);
  }
  EXPECT_EQ(dtype_from_name("f32"), std::nullopt);
  EXPECT_EQ(dtype_from_name(""), std::nullopt);
}

TEST(DType, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float from_half = float_from_f16(half);
    const float from_brain = float_from_bf16(half);
    if (std::isnan(from_half)) {
      EXPECT_TRUE(std::isnan(float_from_f16(f16_from_float(from_half))));
    } else {
      ASSERT_EQ(f16_from_float(from_half), half);
    }
    if (std::isnan(from_brain)) {
      EXPECT_TRUE(std::isnan(float_from_bf16(bf16_from_float(from_brain))));
    } else {
      ASSERT_EQ(bf16_from_float(from_brain), half);
    }
  }
}

TEST(DType, HalfValuesAreThoseOfIeee754) {
  EXPECT_EQ(float_from_f16(0x3c00), 1.0f);
  EXPECT_EQ(float_from_f16(0xc000), -2.0f);
  EXPECT_EQ(float_from_f16(0x7bff), 65504.0f);
  EXPECT_EQ(float_from_f16(0x0001), 0x1p-24f);
  EXPECT_EQ(float_from_f16(0x0400), 0x1p-14f);
  EXPECT_EQ(float_from_f16(0xfc00), -kInfinity);
  EXPECT_TRUE(std::signbit(float_from_f16(0x8000)));
}

TEST(DType, HalfRoundsToNearestEven) {
  EXPECT_EQ(f16_from_float(1.0f + 0x1p-11f), 0x3c00);      // tie, down to even
  EXPECT_EQ(f16_from_float(1.0f + 3 * 0x1p-11f), 0x3c02);  // tie, up to even
  EXPECT_EQ(f16_from_float(1.0f + 0x1p-11f + 0x1p-20f), 0x3c01);
  EXPECT_EQ(f16_from_float(0x1p-25f), 0x0000);  // tie of the smallest subnormal
  EXPECT_EQ(f16_from_float(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
  EXPECT_EQ(f16_from_float(-3 * 0x1p-25f), 0x8002);
  EXPECT_EQ(f16_from_float(65519.996f), 0x7bff);
  EXPECT_EQ(f16_from_float(65520.0f), 0x7c00);
  EXPECT_EQ(f16_from_float(-kInfinity), 0xfc00);
  EXPECT_TRUE(std::isnan(float_from_f16(f16_from_float(kNaN))));
}

TEST(DType, BrainFloatRoundsToNearestEvenAndKeepsNaN) {
  EXPECT_EQ(bf16_from_float(1.0f + 0x1p-8f), 0x3f80);
  EXPECT_EQ(bf16_from_float(1.0f + 3 * 0x1p-8f), 0x3f82);
  EXPECT_EQ(bf16_from_float(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81);
  EXPECT_EQ(bf16_from_float(std::numeric_limits<float>::max()), 0x7f80);
  const float low_payload = float_from_bf16(0x7f80) - float_from_bf16(0x7f80);
  EXPECT_TRUE(std::isnan(float_from_bf16(bf16_from_float(low_payload))));
  EXPECT_TRUE(std::isnan(float_from_bf16(bf16_from_float(kNaN))));
}

TEST(Device, HasAName) {
  EXPECT_EQ(to_string(Device{}), "cpu");
  EXPECT_EQ(to_string(Device{DeviceKind::kCuda, 3}), "cuda:3");
}

}  // namespace
}  // namespace rankwise
