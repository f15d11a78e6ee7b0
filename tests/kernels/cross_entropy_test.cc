// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_gradient;
using testing::expect_identical;
using testing::GuardedMemory;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The vocabulary is split over `ranks`, which run one after the other.
struct Call {
  Call(int64_t rows, int64_t vocabulary, const std::vector<int32_t>& target_ids,
       float spread = 3.0f) {
    logits = memory.normal({rows, vocabulary}, spread);
    targets = memory.of<int32_t>({rows}, target_ids);
    sums = memory.zeros(DType::kF64, {3});
  }
  int64_t begin_of(int rank) const { return logits.dim(1) * rank / ranks; }
  Tensor columns_of(int rank) {
    const int64_t begin = begin_of(rank), width = begin_of(rank + 1) - begin;
    const Tensor out = memory.poisoned({logits.dim(0), width});
    for (int64_t t = 0; t < logits.dim(0); ++t) {
      std::copy_n(row(t) + begin, width, out.data<float>() + t * width);
    }
    return out;
  }
  void run(bool write_gradient) {
    const int64_t rows = logits.dim(0);
    const Tensor statistics = memory.poisoned(DType::kF64, {ranks, rows, kCrossEntropyStatistics});
    std::vector<Tensor> parts;
    for (int rank = 0; rank < ranks; ++rank) {
      parts.push_back(columns_of(rank));
      cross_entropy_statistics(
          statistics.rows(rank, rank + 1).reshaped({rows, kCrossEntropyStatistics}), parts.back(),
          targets, {begin_of(rank), rank}, write_gradient, stream);
    }
    const Tensor before = memory.copy_of(sums);
    for (int rank = 0; rank < ranks; ++rank) {
      const Tensor& part = parts[static_cast<size_t>(rank)];
      const Tensor of_rank = rank == 0 ? sums : memory.copy_of(before);
      cross_entropy(part, targets, statistics, {begin_of(rank), rank}, of_rank, write_gradient,
                    stream);
      expect_identical(of_rank, sums);
      for (int64_t t = 0; t < rows; ++t) {
        std::copy_n(part.data<float>() + t * part.dim(1), part.dim(1), row(t) + begin_of(rank));
      }
    }
  }
  float* row(int64_t t) const { return logits.data<float>() + t * logits.dim(1); }
  double loss() const { return sums.data<double>()[0]; }
  double count() const { return sums.data<double>()[1]; }
  double hits() const { return sums.data<double>()[2]; }

  GuardedMemory memory;
  Stream stream;
  Tensor logits, targets, sums;
  int ranks = 1;
};

std::vector<int32_t> some_targets(int64_t rows, int64_t vocabulary) {
  std::vector<int32_t> out;
  for (int64_t t = 0; t < rows; ++t) {
    out.push_back(t % 4 == 3 ? -100 : static_cast<int32_t>(t * 7 % vocabulary));
  }
  return out;
}

struct Reference {
  double loss = 0.0, count = 0.0, hits = 0.0;
  std::vector<double> gradient;
};

Reference reference(const Call& call) {
  const int64_t vocabulary = call.logits.dim(1);
  Reference out;
  out.gradient.resize(static_cast<size_t>(call.logits.numel()));
  for (int64_t t = 0; t < call.logits.dim(0); ++t) {
    const int32_t target = call.targets.data<int32_t>()[t];
    if (target < 0) continue;
    const float* x = call.logits.data<float>() + t * vocabulary;
    const float* largest = std::max_element(x, x + vocabulary);  // the first of several
    double sum = 0.0;
    for (int64_t j = 0; j < vocabulary; ++j) sum += std::exp(double{x[j]} - *largest);
    for (int64_t j = 0; j < vocabulary; ++j) {
      out.gradient[static_cast<size_t>(t * vocabulary + j)] =
          std::exp(double{x[j]} - *largest) / sum - (j == target ? 1.0 : 0.0);
    }
    out.loss += std::log(sum) + *largest - double{x[target]};
    out.count += 1.0;
    out.hits += largest - x == target ? 1.0 : 0.0;
  }
  return out;
}

// Also when a rank has one column, and when the ranks have unequal numbers of columns.
TEST(CrossEntropy, AgreesWithDoublePrecisionReferenceHoweverTheVocabularyIsSplit) {
  for (const auto& [rows, vocabulary] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {1, 24}, {5, 4}, {3, 33}, {65, 7}, {40, 5001}, {9, 32001}}) {
    for (int ranks = 1; ranks <= std::min<int64_t>(4, vocabulary); ++ranks) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << vocabulary << " over " << ranks);
      Call call(rows, vocabulary, some_targets(rows, vocabulary));
      call.ranks = ranks;
      const Reference expected = reference(call);
      call.run(true);
      EXPECT_NEAR(expected.loss, call.loss(), 1e-7 * (1.0 + expected.loss));
      EXPECT_EQ(expected.count, call.count());
      EXPECT_EQ(expected.hits, call.hits());
      expect_close(call.logits, expected.gradient, 1e-7, 2e-6);
    }
  }
}

// What the ranks exchange, computed here in double, loses nothing when it is combined.
TEST(CrossEntropy, CombinesStatisticsInDoublePrecision) {
  constexpr int kRanks = 3;
  Call call(30, 3000, some_targets(30, 3000), 6.0f);
  const Reference expected = reference(call);
  const Tensor statistics = call.memory.zeros(DType::kF64, {kRanks, 30, 4});
  for (int64_t rank = 0; rank < kRanks; ++rank) {
    for (int64_t t = 0; t < 30; ++t) {
      const int64_t target = call.targets.data<int32_t>()[t] - rank * 1000;
      const bool inside = target >= 0 && target < 1000;
      const float* x = call.row(t) + rank * 1000;
      const float* largest = std::max_element(x, x + 1000);
      double* out = statistics.data<double>() + (rank * 30 + t) * 4;
      out[0] = *largest;
      for (int64_t j = 0; j < 1000; ++j) out[1] += std::exp(double{x[j]} - *largest);
      out[2] = inside ? x[target] : -kInfinity;
      out[3] = inside && largest - x == target ? 1.0 : 0.0;
    }
  }
  cross_entropy(call.memory.zeros({30, 1000}), call.targets, statistics, {1000, 1}, call.sums,
                false, call.stream);
  EXPECT_NEAR(expected.loss, call.loss(), 1e-12 * expected.loss);
  EXPECT_EQ(expected.count, call.count());
  EXPECT_EQ(expected.hits, call.hits());
}

TEST(CrossEntropy, GradientMatchesFiniteDifferences) {
  Call call(3, 24, {5, -1, 23}, 1.0f);
  const Tensor logits = call.memory.copy_of(call.logits);
  call.run(true);
  const Tensor gradient = call.memory.copy_of(call.logits);
  std::copy_n(logits.data<float>(), logits.numel(), call.logits.data<float>());
  expect_gradient(call.logits, gradient, [&] {
    std::fill_n(call.sums.data<double>(), 3, 0.0);
    call.run(false);
    return call.loss();
  });
}

TEST(CrossEntropy, LeavesLogitsAloneWithoutGradient) {
  Call call(3, 100, {1, 2, 3});
  const Tensor before = call.memory.copy_of(call.logits);
  call.run(false);
  expect_identical(call.logits, before);
  Call with(3, 100, {1, 2, 3});
  with.run(true);
  EXPECT_EQ(with.loss(), call.loss());
}

TEST(CrossEntropy, AddsToTheSums) {
  Call call(2, 10, {1, 2});
  call.run(false);
  const double once = call.loss();
  call.run(false);
  EXPECT_DOUBLE_EQ(2.0 * once, call.loss());
  EXPECT_EQ(4.0, call.count());
}

TEST(CrossEntropy, OfIgnoredRowsIsNothing) {
  for (const int ranks : {1, 3}) {
    Call call(3, 50, {-100, -1, -100});
    call.ranks = ranks;
    call.run(true);
    EXPECT_EQ(0.0, call.loss());
    EXPECT_EQ(0.0, call.count());
    EXPECT_EQ(0.0, call.hits());
    expect_identical(call.logits, call.memory.zeros({3, 50}));
  }
}

TEST(CrossEntropy, HugeLogitsDoNotOverflow) {
  for (int ranks = 1; ranks <= 4; ++ranks) {
    Call call(2, 4, {0, 1});
    call.ranks = ranks;
    const std::vector<float> logits{1e4f, -1e4f, 0.0f, 1e4f, 1e4f, -1e4f, 0.0f, 0.0f};
    std::copy(logits.begin(), logits.end(), call.logits.data<float>());
    call.run(true);
    EXPECT_NEAR(std::log(2.0) + 2e4, call.loss(), 1e-2);
    expect_close(call.logits, std::vector<double>{-0.5, 0, 0, 0.5, 1, -1, 0, 0}, 1e-30, 1e-6);
  }
}

// A rank whose columns are all excluded, and a target that is.
TEST(CrossEntropy, TakesLogitsOfMinusInfinity) {
  constexpr float kLow = -kInfinity;
  for (int ranks = 1; ranks <= 4; ++ranks) {
    Call call(1, 4, {2});
    call.ranks = ranks;
    const std::vector<float> logits{kLow, kLow, 1.0f, 1.0f};
    std::copy(logits.begin(), logits.end(), call.logits.data<float>());
    call.run(true);
    EXPECT_NEAR(std::log(2.0), call.loss(), 1e-12);
    EXPECT_EQ(1.0, call.hits());
    expect_close(call.logits, std::vector<double>{0, 0, -0.5, 0.5}, 0.0, 1e-6);
    Call impossible(1, 4, {0});
    impossible.ranks = ranks;
    std::copy(logits.begin(), logits.end(), impossible.logits.data<float>());
    impossible.run(false);
    EXPECT_EQ(kInfinity, impossible.loss());
  }
}

TEST(CrossEntropy, KeepsARowOfMinusInfinityVisible) {
  for (const int ranks : {1, 2}) {
    Call call(1, 4, {2});
    call.ranks = ranks;
    std::fill_n(call.logits.data<float>(), 4, -kInfinity);
    call.run(true);
    EXPECT_TRUE(std::isnan(call.loss()));
    EXPECT_TRUE(std::isnan(call.logits.data<float>()[1]));
  }
}

TEST(CrossEntropy, CountsTheLowestOfTiedMaximaAsPrediction) {
  for (const auto& [target, hits] : std::vector<std::pair<int32_t, double>>{{1, 1.0}, {39, 0.0}}) {
    for (const int ranks : {1, 2, 3}) {
      Call call(1, 40, {target});
      call.ranks = ranks;
      std::fill_n(call.logits.data<float>(), 40, 0.5f);
      call.logits.data<float>()[1] = 2.0f;
      call.logits.data<float>()[39] = 2.0f;
      call.run(false);
      EXPECT_EQ(hits, call.hits()) << target << " over " << ranks;
    }
  }
}

TEST(CrossEntropy, KeepsNaNVisible) {
  for (const int ranks : {1, 2, 4}) {
    Call call(1, 40, {3});
    call.ranks = ranks;
    call.logits.data<float>()[20] = std::nanf("");
    call.run(true);
    EXPECT_TRUE(std::isnan(call.loss()));
  }
}

TEST(CrossEntropy, DoesNotDependOnTheThreadCount) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  Call one(70, 600, some_targets(70, 600));
  one.run(true);
  omp_set_num_threads(3);
  Call three(70, 600, some_targets(70, 600));
  three.run(true);
  omp_set_num_threads(before);
  expect_identical(three.sums, one.sums);
  expect_identical(three.logits, one.logits);
}

TEST(CrossEntropyDeathTest, RefusesATargetOutsideTheVocabulary) {
  Call call(1, 8, {8});
  EXPECT_DEATH(call.run(false), "target 8 of 8");
}

}  // namespace
}  // namespace rankwise
