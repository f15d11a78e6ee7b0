// SPDX-License-Identifier: Apache-2.0
#include "kernels/rank_selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::GuardedMemory;

struct Bench {
  std::vector<int> kept(const std::vector<float>& scores, int64_t count) {
    const auto n = static_cast<int64_t>(scores.size());
    const Tensor keep = memory.poisoned(DType::kU8, {n});
    keep_highest(keep, memory.of<float>({n}, scores), count, stream);
    return {keep.data<uint8_t>(), keep.data<uint8_t>() + n};
  }
  Importance importance(const Shape& shape) {
    return {memory.uniform(shape, 0.0f, 1.0f), memory.uniform(shape, 0.0f, 1.0f)};
  }

  GuardedMemory memory;
  Stream stream;
};

TEST(TripletScores, AddMeansOfAAndBToE) {
  Bench bench;
  const auto of = [&](const Shape& shape, const std::vector<float>& values) {
    return Importance{bench.memory.of<float>(shape, values),
                      bench.memory.of<float>(shape, std::vector<float>(values.size(), 1.0f))};
  };
  const TripletImportance module{of({1, 3}, {1, 2, 3}), of({1, 1}, {1}), of({2, 1}, {4, 6})};
  const Tensor scores = bench.memory.poisoned({1});
  triplet_scores(scores, std::array{module}, bench.stream);
  EXPECT_EQ(scores.data<float>()[0], 8.0f);
}

TEST(TripletScores, AgreeWithDoublePrecisionForModulesOfAnyShape) {
  Bench bench;
  std::vector<TripletImportance> modules;
  std::vector<double> expected;
  const auto score = [](const Importance& x, int64_t i) {
    return static_cast<double>(x.sensitivity.data<float>()[i]) * x.uncertainty.data<float>()[i];
  };
  for (const auto& [rank, in, out] :
       {std::array<int64_t, 3>{1, 1, 1}, {3, 700, 5}, {8, 64, 1031}, {17, 129, 33}}) {
    modules.push_back(
        {bench.importance({rank, in}), bench.importance({rank}), bench.importance({out, rank})});
    for (int64_t i = 0; i < rank; ++i) {
      double of_a = 0.0;
      double of_b = 0.0;
      for (int64_t j = 0; j < in; ++j) of_a += score(modules.back().a, i * in + j);
      for (int64_t k = 0; k < out; ++k) of_b += score(modules.back().b, k * rank + i);
      expected.push_back(score(modules.back().e, i) + of_a / static_cast<double>(in) +
                         of_b / static_cast<double>(out));
    }
  }
  const Tensor scores = bench.memory.poisoned({29});
  triplet_scores(scores, modules, bench.stream);
  expect_close(scores, expected, 0.0, 1e-6);
}

TEST(KeepHighest, MeetsTheBudgetExactlyWhenScoresAreEqual) {
  Bench bench;
  const std::vector<float> scores{0.1f, 0.5f, 0.5f, 0.2f, 0.9f, 0.3f};
  EXPECT_EQ(bench.kept(scores, 3), (std::vector<int>{0, 1, 1, 0, 1, 0}));
  EXPECT_EQ(bench.kept(scores, 2), (std::vector<int>{0, 1, 0, 0, 1, 0}));
  EXPECT_EQ(bench.kept({0, 0, 0, 0}, 3), (std::vector<int>{1, 1, 1, 0}));
}

TEST(KeepHighest, KeepsNothingOrEverything) {
  Bench bench;
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(bench.kept({1, infinity, 0}, 0), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(bench.kept({1, infinity, 0}, 3), (std::vector<int>{1, 1, 1}));
  EXPECT_EQ(bench.kept({-2, -1, infinity, 1}, 3), (std::vector<int>{0, 1, 1, 1}));
}

TEST(KeepHighest, IsAStableSortCutOff) {
  Bench bench;
  for (const int64_t n : {1, 33, 5000}) {
    for (const float step : {0.0f, 0.25f}) {  // of a few values only, or all different
      const Tensor random = bench.memory.uniform({n}, 0.0f, 1.0f);
      std::vector<float> scores(random.data<float>(), random.data<float>() + n);
      if (step > 0.0f) {
        for (float& score : scores) score = step * std::floor(score / step);
      }
      std::vector<size_t> order(scores.size());
      std::iota(order.begin(), order.end(), 0u);
      std::ranges::stable_sort(order, std::greater<>(), [&](size_t i) { return scores[i]; });
      for (const int64_t count : {int64_t{1}, n / 3, n - 1, n}) {
        std::vector<int> expected(scores.size(), 0);
        for (int64_t i = 0; i < count; ++i) expected[order[static_cast<size_t>(i)]] = 1;
        EXPECT_EQ(bench.kept(scores, count), expected) << count << " of " << n;
      }
    }
  }
}

TEST(ZeroDropped, GoesOnFromTensorToTensor) {
  Bench bench;
  const Tensor first = bench.memory.of<float>({2}, {1, 2});
  const Tensor second = bench.memory.of<float>({3, 1}, {3, 4, 5});
  const Tensor keep = bench.memory.of<uint8_t>({5}, {1, 0, 0, 1, 1});
  zero_dropped(std::array{first, second}, keep, bench.stream);
  expect_close(first, std::array{1.0, 0.0}, 0.0, 0.0);
  expect_close(second, std::array{0.0, 4.0, 5.0}, 0.0, 0.0);
}

TEST(RankSelectionDeathTest, RefusesWrongShapes) {
  Bench bench;
  const auto x = [&](const Shape& shape) { return bench.importance(shape); };
  const auto score = [&](const TripletImportance& module, int64_t n) {
    triplet_scores(bench.memory.zeros({n}), std::array{module}, bench.stream);
  };
  EXPECT_DEATH(score({x({2, 3}), x({3}), x({4, 2})}, 2), "e .3. rank 2");
  EXPECT_DEATH(score({x({2, 3}), x({2}), x({2, 4})}, 2), "triplet_scores");
  EXPECT_DEATH(score({x({2, 3}), x({2}), x({4, 2})}, 3), "scores");
  EXPECT_DEATH(bench.kept({1, 2}, 3), "3 of 2");
}

}  // namespace
}  // namespace rankwise
