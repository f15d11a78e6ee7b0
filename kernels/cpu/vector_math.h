// SPDX-License-Identifier: Apache-2.0
// Vectors of floats as wide as the machine's registers, and element functions that work on such a
// vector or on one float; on one float they become vector code when they stand in a loop.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace rankwise::cpu {

#if defined(__AVX512F__)
inline constexpr int64_t kLanes = 16;
#elif defined(__AVX__)
inline constexpr int64_t kLanes = 8;
#else
inline constexpr int64_t kLanes = 4;
#endif

typedef float FloatVector __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t IntVector __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef uint32_t UintVector __attribute__((vector_size(kLanes * sizeof(uint32_t))));

inline FloatVector load_vector(const float* from) {
  FloatVector value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}
inline void store_vector(float* to, FloatVector value) { std::memcpy(to, &value, sizeof(value)); }
inline FloatVector broadcast(float value) { return value - FloatVector{}; }  // -0 stays -0

// The same value, loaded or formed once: without it the compiler repeats a load at every use, and
// loads are then the limit.
inline FloatVector held_in_register(FloatVector value) {
#if defined(__x86_64__)
  asm("" : "+v"(value));
#endif
  return value;
}

// e^x to 1 ulp or so, for float or FloatVector. 0 below the smallest normal result, infinity above
// the largest; NaN stays NaN. x = n ln 2 + r with |r| <= ln 2 / 2; e^r is a minimax polynomial, 2^n
// is added to the exponent.
template <class Float>
inline Float vector_exp(Float x) {
  using Bits = std::conditional_t<std::is_same_v<Float, float>, uint32_t, UintVector>;
  constexpr float kLowest = -87.33654f;
  constexpr float kHighest = 88.72283f;
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // few bits: n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  // Adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits.
  constexpr float kRound = 12582912.0f;

  const Float shifted = x * kLog2E + kRound;
  const Float n = shifted - kRound;
  const Float r = (x - n * kLn2High) - n * kLn2Low;
  Float polynomial = r * 0.0013814540579915047f + 0.00836874544620514f;
  polynomial = polynomial * r + 0.04166838899254799f;
  polynomial = polynomial * r + 0.1666652113199234f;
  polynomial = polynomial * r + 0.4999999403953552f;
  polynomial = polynomial * r + 1.0f;
  polynomial = polynomial * r + 1.0f;
  // The shift leaves n in the exponent field and drops the constant.
  const Float result =
      std::bit_cast<Float>(std::bit_cast<Bits>(polynomial) + (std::bit_cast<Bits>(shifted) << 23));
  const Float not_above = x > kHighest ? Float{} + std::numeric_limits<float>::infinity() : result;
  return x < kLowest ? Float{} : not_above;
}

// 1 / (1 + e^-x).
inline float vector_sigmoid(float x) { return 1.0f / (1.0f + vector_exp(-x)); }

// Largest of x[0, count), count >= 1; NaN is passed over. Several maxima run side by side because
// the compiler may not reorder one.
inline float vector_max(const float* x, int64_t count) {
  constexpr int64_t kSide = 32;
  float side[kSide];
  for (float& value : side) value = x[0];
  int64_t i = 0;
  for (; i + kSide <= count; i += kSide) {
    for (int64_t lane = 0; lane < kSide; ++lane) {
      side[lane] = x[i + lane] > side[lane] ? x[i + lane] : side[lane];
    }
  }
  float largest = side[0];
  for (const float value : side) largest = value > largest ? value : largest;
  for (; i < count; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

}  // namespace rankwise::cpu
