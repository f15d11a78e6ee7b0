// SPDX-License-Identifier: Apache-2.0
#include "runtime/rng.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

namespace rankwise {
namespace {

uint32_t low_word(uint64_t value) { return static_cast<uint32_t>(value); }
uint32_t high_word(uint64_t value) { return static_cast<uint32_t>(value >> 32); }

// FNV-1a, 64 bits.
uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : name) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3ull;
  }
  return hash;
}

// The output function of SplitMix64: a bijection in which every input bit reaches every output bit.
uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15ull;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
  return value ^ (value >> 31);
}

// Two neighbouring words as one 64-bit number.
uint64_t pair_of(const std::array<uint32_t, 4>& words, uint64_t index) {
  const size_t first = 2 * (index % 2);
  return (static_cast<uint64_t>(words[first + 1]) << 32) | words[first];
}

float uniform_from(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// Box-Muller on words (2p, 2p + 1): two independent normals. u1 is in (0, 1], so the logarithm is
// finite; 32 bits of it bound |z| by 6.7.
std::pair<float, float> normals_from(const std::array<uint32_t, 4>& words, size_t pair) {
  const double u1 = (static_cast<double>(words[2 * pair]) + 1.0) * 0x1p-32;
  const double u2 = static_cast<double>(words[2 * pair + 1]) * 0x1p-32;
  const double radius = std::sqrt(-2.0 * std::log(u1));
  const double angle = 2.0 * std::numbers::pi * u2;
  return {static_cast<float>(radius * std::cos(angle)),
          static_cast<float>(radius * std::sin(angle))};
}

// Counter of the block that holds four values: block number in the low, step in the high words.
std::array<uint32_t, 4> counter_of(uint64_t block, std::array<uint32_t, 2> step) {
  return {low_word(block), high_word(block), step[0], step[1]};
}

}  // namespace

// Key = mix(mix(seed) ^ hash(name)): streams of other names or seeds are unrelated. Part of what
// checkpoints rely on: must not change.
Rng::Rng(uint64_t seed, std::string_view name, uint64_t step)
    : step_{low_word(step), high_word(step)} {
  const uint64_t key = mix(mix(seed) ^ hash_name(name));
  key_ = {low_word(key), high_word(key)};
}

std::array<uint32_t, 4> Rng::philox(std::array<uint32_t, 2> key, std::array<uint32_t, 4> counter) {
  constexpr uint64_t kMultiplier0 = 0xd2511f53u;
  constexpr uint64_t kMultiplier1 = 0xcd9e8d57u;
  constexpr uint32_t kWeyl0 = 0x9e3779b9u;
  constexpr uint32_t kWeyl1 = 0xbb67ae85u;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {high_word(product1) ^ counter[1] ^ key[0], low_word(product1),
               high_word(product0) ^ counter[3] ^ key[1], low_word(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

uint32_t Rng::bits(uint64_t index) const {
  return philox(key_, counter_of(index / 4, step_))[index % 4];
}

float Rng::uniform(uint64_t index) const { return uniform_from(bits(index)); }

double Rng::uniform_double(uint64_t index) const {
  const uint64_t wide = pair_of(philox(key_, counter_of(index / 2, step_)), index);
  return static_cast<double>(wide >> 11) * 0x1p-53;
}

float Rng::normal(uint64_t index) const {
  const auto [first, second] =
      normals_from(philox(key_, counter_of(index / 4, step_)), (index % 4) / 2);
  return index % 2 == 0 ? first : second;
}

uint64_t Rng::below(uint64_t index, uint64_t bound) const {
  const uint64_t wide = pair_of(philox(key_, counter_of(index / 2, step_)), index);
  __extension__ using uint128 = unsigned __int128;
  return static_cast<uint64_t>((static_cast<uint128>(wide) * bound) >> 64);
}

void Rng::fill_uniform(std::span<float> out, float low, float high) const {
  const float range = high - low;
  for (size_t begin = 0; begin < out.size(); begin += 4) {
    const std::array<uint32_t, 4> words = philox(key_, counter_of(begin / 4, step_));
    const size_t count = std::min<size_t>(4, out.size() - begin);
    for (size_t i = 0; i < count; ++i) out[begin + i] = low + range * uniform_from(words[i]);
  }
}

void Rng::fill_normal(std::span<float> out, float mean, float stddev) const {
  for (size_t begin = 0; begin < out.size(); begin += 4) {
    const std::array<uint32_t, 4> words = philox(key_, counter_of(begin / 4, step_));
    const auto [a, b] = normals_from(words, 0);
    const auto [c, d] = normals_from(words, 1);
    const std::array<float, 4> normals = {a, b, c, d};
    const size_t count = std::min<size_t>(4, out.size() - begin);
    for (size_t i = 0; i < count; ++i) out[begin + i] = mean + stddev * normals[i];
  }
}

std::vector<uint32_t> Rng::permutation(uint32_t count) const {
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0u);
  for (uint32_t i = count; i > 1; --i) {
    std::swap(order[i - 1], order[below(i - 1, i)]);
  }
  return order;
}

}  // namespace rankwise
