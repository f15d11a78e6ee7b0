// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/pack_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "runtime/rng.h"

namespace rankwise {
namespace {

std::vector<Sample> samples_of(const std::vector<size_t>& lengths) {
  std::vector<Sample> out;
  for (const size_t length : lengths) {
    out.push_back({std::vector<int32_t>(length, 1), std::vector<int32_t>(length, 1)});
  }
  return out;
}

std::vector<Sample> random_samples(uint32_t count, uint64_t longest) {
  const Rng rng(7, "lengths");
  std::vector<size_t> lengths;
  for (uint32_t i = 0; i < count; ++i) lengths.push_back(1 + rng.below(i, longest));
  return samples_of(lengths);
}

TEST(PackRows, LongestFirstIntoTheFirstRowWithRoom) {
  // 7 | 6 4 | 5 3 2 : 7 opens a row, 6 the next, 5 a third; 4 fits behind 6, 3 behind 7, 2
  // behind 5.
  const auto samples = samples_of({3, 4, 5, 6, 7, 2});
  const SampleRows rows = pack_rows({0, 1, 2, 3, 4, 5}, samples, 10);
  EXPECT_EQ(rows, (SampleRows{{0, 4}, {1, 3}, {2, 5}}));
}

TEST(PackRows, FollowsTheGivenOrder) {
  const auto samples = samples_of({6, 6, 4, 4});
  EXPECT_EQ(pack_rows({3, 1, 0, 2}, samples, 10), (SampleRows{{3, 1}, {0, 2}}));
  EXPECT_EQ(pack_rows({2, 3}, samples, 4), (SampleRows{{2}, {3}}));
}

TEST(PackRows, EverySampleOnceAndNoRowTooLong) {
  const auto samples = random_samples(20'000, 512);
  const std::vector<uint32_t> order = Rng(1, "order").permutation(20'000);
  const SampleRows rows = pack_rows(order, samples, 512);
  std::vector<uint32_t> seen;
  for (const auto& row : rows) {
    size_t tokens = 0;
    for (const uint32_t index : row) tokens += samples[index].input_ids.size();
    EXPECT_LE(tokens, 512U);
    EXPECT_GE(row.size(), 1U);
    seen.insert(seen.end(), row.begin(), row.end());
  }
  std::sort(seen.begin(), seen.end());
  std::vector<uint32_t> all(20'000);
  std::iota(all.begin(), all.end(), 0U);
  EXPECT_EQ(seen, all);
  EXPECT_EQ(pack_rows(order, samples, 512), rows);
}

TEST(PackRows, RowsAreNearlyFull) {
  const auto samples = random_samples(20'000, 512);
  std::vector<uint32_t> order(20'000);
  std::iota(order.begin(), order.end(), 0U);
  size_t tokens = 0;
  for (const Sample& sample : samples) tokens += sample.input_ids.size();
  const SampleRows rows = pack_rows(order, samples, 2048);
  EXPECT_GT(static_cast<double>(tokens) / static_cast<double>(rows.size() * 2048), 0.98);
}

TEST(PackRows, NothingGivesNoRows) { EXPECT_TRUE(pack_rows({}, {}, 8).empty()); }

}  // namespace
}  // namespace rankwise
