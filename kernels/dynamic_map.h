// SPDX-License-Identifier: Apache-2.0
// The 8-bit dynamic maps of bitsandbytes, and tables that find the entry nearest to a number.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace rankwise {

// 256 sorted values: for each decade 10^(i-6), i = 0..6, the midpoints of equal intervals of
// [0.1, 1], 2^i of them with both signs or 2^(i+1) without; then 0 and +1 (there is no -1).
// Dettmers, "8-bit approximations for parallelism in deep learning".
constexpr std::array<float, 256> dynamic_map(bool has_signs) {
  constexpr double kDecades[] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0};
  std::array<float, 256> map{};
  size_t count = 0;
  for (int i = 0; i <= 6; ++i) {
    const int intervals = (has_signs ? 1 : 2) << i;
    for (int k = 0; k < intervals; ++k) {
      const double value = kDecades[i] * (0.1 + 0.9 * (2 * k + 1) / (2.0 * intervals));
      map[count++] = static_cast<float>(value);
      if (has_signs) map[count++] = static_cast<float>(-value);
    }
  }
  map[count++] = 0.0f;
  map[count++] = 1.0f;
  std::sort(map.begin(), map.end());
  return map;
}

inline constexpr std::array<float, 256> kSignedDynamicMap = dynamic_map(true);
inline constexpr std::array<float, 256> kUnsignedDynamicMap = dynamic_map(false);
inline constexpr int kSignedZero = 127;  // the entry 0; entries around it are symmetric, up to +1

// A map, and what finds the level nearest to a magnitude x in [0, 1]: levels are the entries from
// the zero of the map on. A tie takes the level whose entry is even, where the binary search of
// bitsandbytes ends (from 127, steps 64 ... 1). Floats that agree in exponent and 7 bits of the
// mantissa form a bucket, those below 2^-23 the first one. No bucket holds more than one threshold,
// so that level = first[bucket], plus 1 if x > threshold[first[bucket]].
template <class Level>
struct DynamicMapTables {
  static constexpr int kShift = 16;  // from the bits of a float to its bucket
  static constexpr uint32_t kLowest = std::bit_cast<uint32_t>(0x1p-23f) >> kShift;
  static constexpr uint32_t kHighest = std::bit_cast<uint32_t>(1.0f) >> kShift;
  float entry[256];
  float threshold[256];  // the largest float of each level
  Level first[kHighest - kLowest + 1];
};

template <class Level>
constexpr DynamicMapTables<Level> dynamic_map_tables(bool has_signs) {
  using Tables = DynamicMapTables<Level>;
  const std::array<float, 256>& map = has_signs ? kSignedDynamicMap : kUnsignedDynamicMap;
  const size_t zero = has_signs ? kSignedZero : 0;
  Tables tables{};
  std::copy(map.begin(), map.end(), tables.entry);
  std::fill_n(tables.threshold, 256, std::numeric_limits<float>::infinity());
  for (size_t entry = zero + 1; entry < 256; ++entry) {
    const float middle = (map[entry - 1] + map[entry]) * 0.5f;
    const float below = std::bit_cast<float>(std::bit_cast<uint32_t>(middle) - 1);
    tables.threshold[entry - 1 - zero] = entry % 2 == 0 ? below : middle;
  }
  size_t level = 0;
  for (uint32_t bucket = Tables::kLowest; bucket <= Tables::kHighest; ++bucket) {
    const auto lowest = std::bit_cast<float>(bucket << Tables::kShift);
    while (bucket > Tables::kLowest && lowest > tables.threshold[level]) ++level;
    tables.first[bucket - Tables::kLowest] = static_cast<Level>(level);
    const auto highest = std::bit_cast<float>(((bucket + 1) << Tables::kShift) - 1);
    if (highest > tables.threshold[level] && highest > tables.threshold[level + 1]) {
      throw "a bucket holds two thresholds";  // ends the compilation
    }
  }
  return tables;
}

}  // namespace rankwise
