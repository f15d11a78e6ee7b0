// SPDX-License-Identifier: Apache-2.0
// Rng: counter-based random numbers (Philox 4x32-10); (seed, name, step) is the whole state.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace rankwise {

// Value i of a stream is a pure function of (seed, name, step, i): results do not depend on rank,
// thread count or call order. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3".
class Rng {
 public:
  Rng(uint64_t seed, std::string_view name, uint64_t step = 0);

  uint32_t bits(uint64_t index) const;
  float uniform(uint64_t index) const;                   // [0, 1), 24 bits
  double uniform_double(uint64_t index) const;           // [0, 1), 53 bits
  float normal(uint64_t index) const;                    // mean 0, variance 1 (Box-Muller)
  uint64_t below(uint64_t index, uint64_t bound) const;  // [0, bound), unbiased to 2^-64

  void fill_uniform(std::span<float> out, float low, float high) const;
  void fill_normal(std::span<float> out, float mean, float stddev) const;
  // A permutation of 0..count-1 (Fisher-Yates over this stream).
  std::vector<uint32_t> permutation(uint32_t count) const;

  // For kernels that draw in place: bits(i) is word i % 4 of
  // philox(key(), {low word of i / 4, high word of i / 4, step()[0], step()[1]}).
  std::array<uint32_t, 2> key() const { return key_; }
  std::array<uint32_t, 2> step() const { return step_; }
  // The Philox round function itself: (key, counter) -> 4 words.
  static std::array<uint32_t, 4> philox(std::array<uint32_t, 2> key,
                                        std::array<uint32_t, 4> counter);

 private:
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 2> step_;
};

}  // namespace rankwise
