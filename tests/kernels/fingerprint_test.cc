// SPDX-License-Identifier: Apache-2.0
#include "kernels/fingerprint.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cmath>

#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::GuardedMemory;

struct Bench {
  std::vector<int64_t> hashes_of(const std::vector<Tensor>& xs) {
    const auto n = static_cast<int64_t>(xs.size());
    const Tensor hashes = memory.poisoned(DType::kI64, {n});
    fingerprint(hashes, xs, stream);
    return {hashes.data<int64_t>(), hashes.data<int64_t>() + n};
  }
  template <class T>
  int64_t hash_of(const std::vector<T>& x) {
    return hashes_of({memory.of<T>({static_cast<int64_t>(x.size())}, x)})[0];
  }

  GuardedMemory memory;
  Stream stream;
};

TEST(Fingerprint, SeesValuesAndPlaces) {
  Bench bench;
  const int64_t hash = bench.hash_of<float>({1.0f, 2.0f, 3.0f});
  EXPECT_EQ(bench.hash_of<float>({1.0f, 2.0f, 3.0f}), hash);
  EXPECT_NE(bench.hash_of<float>({2.0f, 1.0f, 3.0f}), hash);
  EXPECT_NE(bench.hash_of<float>({1.0f, 2.0f, std::nextafter(3.0f, 4.0f)}), hash);
  EXPECT_NE(bench.hash_of<float>({0.0f}), bench.hash_of<float>({0.0f, 0.0f}));
  EXPECT_NE(bench.hash_of<float>({0.0f}), bench.hash_of<float>({-0.0f}));
  EXPECT_NE(bench.hash_of<uint8_t>({0, 1}), bench.hash_of<uint8_t>({1, 0}));
  EXPECT_EQ(bench.hash_of<uint8_t>({0, 1}), bench.hash_of<uint8_t>({0, 1}));
}

// By the formula, so that devices and releases agree.
TEST(Fingerprint, IsTheSumOfMixedWords) {
  Bench bench;
  EXPECT_EQ(static_cast<uint64_t>(bench.hash_of<uint32_t>({7})), 0x5ae1a472037702aeu);
  const int64_t whole = bench.hash_of<uint32_t>({7, 9});
  EXPECT_EQ(bench.hash_of<int64_t>({int64_t{9} << 32 | 7}), whole);
  EXPECT_EQ(bench.hash_of<uint16_t>({7, 9}), whole);
  EXPECT_EQ(bench.hash_of<uint8_t>({7, 9}), whole);
}

TEST(Fingerprint, EveryFlippedBitOfAnyTensorShows) {
  Bench bench;
  const std::vector<Tensor> xs = {bench.memory.normal({3, 5}), bench.memory.zeros(DType::kU8, {7}),
                                  bench.memory.zeros(DType::kBF16, {3}),
                                  bench.memory.zeros(DType::kF64, {2}),
                                  bench.memory.zeros(DType::kF32, {0})};
  const std::vector<int64_t> before = bench.hashes_of(xs);
  EXPECT_EQ(before.back(), 0);
  for (size_t i = 0; i < xs.size(); ++i) {
    auto* bytes = static_cast<uint8_t*>(xs[i].raw());
    for (int64_t bit = 0; bit < 8 * xs[i].bytes(); ++bit) {
      bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      std::vector<int64_t> after = bench.hashes_of(xs);
      EXPECT_NE(after[i], before[i]) << "tensor " << i << ", bit " << bit;
      after[i] = before[i];
      EXPECT_EQ(after, before);
      bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    }
  }
}

// What a comparison of replicas costs: reported, and bounded loosely.
TEST(Fingerprint, TakesLittleTime) {
  Bench bench;
  const Tensor x = bench.memory.zeros({1 << 24});
  bench.hashes_of({x});
  const auto begin = std::chrono::steady_clock::now();
  bench.hashes_of({x});
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("fingerprint: %.2f GB/s\n", static_cast<double>(x.bytes()) / seconds * 1e-9);
  EXPECT_LT(seconds, 2.0);
}

}  // namespace
}  // namespace rankwise
