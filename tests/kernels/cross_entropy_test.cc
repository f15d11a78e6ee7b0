// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_gradient;
using testing::expect_identical;
using testing::GuardedMemory;

struct Call {
  Call(int64_t rows, int64_t vocabulary, const std::vector<int32_t>& target_ids,
       float spread = 3.0f) {
    logits = memory.normal({rows, vocabulary}, spread);
    targets = memory.of<int32_t>({rows}, target_ids);
    sums = memory.zeros(DType::kF64, {3});
  }
  void run(bool write_gradient) { cross_entropy(logits, targets, sums, write_gradient, stream); }
  double loss() const { return sums.data<double>()[0]; }
  double count() const { return sums.data<double>()[1]; }
  double hits() const { return sums.data<double>()[2]; }

  GuardedMemory memory;
  Stream stream;
  Tensor logits, targets, sums;
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
    for (int64_t j = 0; j < vocabulary; ++j) sum += std::exp(static_cast<double>(x[j]) - *largest);
    for (int64_t j = 0; j < vocabulary; ++j) {
      out.gradient[static_cast<size_t>(t * vocabulary + j)] =
          std::exp(static_cast<double>(x[j]) - *largest) / sum - (j == target ? 1.0 : 0.0);
    }
    out.loss += std::log(sum) + *largest - x[target];
    out.count += 1.0;
    out.hits += largest - x == target ? 1.0 : 0.0;
  }
  return out;
}

TEST(CrossEntropy, AgreesWithDoublePrecisionReference) {
  for (const auto& [rows, vocabulary] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {1, 24}, {3, 33}, {65, 7}, {40, 5001}}) {
    Call call(rows, vocabulary, some_targets(rows, vocabulary));
    const Reference expected = reference(call);
    call.run(true);
    EXPECT_NEAR(expected.loss, call.loss(), 1e-6 * (1.0 + expected.loss));
    EXPECT_EQ(expected.count, call.count());
    EXPECT_EQ(expected.hits, call.hits());
    expect_close(call.logits, expected.gradient, 1e-7, 2e-6);
  }
}

TEST(CrossEntropy, GradientMatchesFiniteDifferences) {
  Call call(3, 24, {5, -1, 23}, 1.0f);
  const Tensor gradient = call.memory.copy_of(call.logits);
  cross_entropy(gradient, call.targets, call.memory.zeros(DType::kF64, {3}), true, call.stream);
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
  Call call(3, 50, {-100, -1, -100});
  call.run(true);
  EXPECT_EQ(0.0, call.loss());
  EXPECT_EQ(0.0, call.count());
  EXPECT_EQ(0.0, call.hits());
  expect_identical(call.logits, call.memory.zeros({3, 50}));
}

TEST(CrossEntropy, HugeLogitsDoNotOverflow) {
  Call call(2, 4, {0, 1});
  const std::vector<float> logits{1e4f, -1e4f, 0.0f, 1e4f, 1e4f, -1e4f, 0.0f, 0.0f};
  std::copy(logits.begin(), logits.end(), call.logits.data<float>());
  call.run(true);
  EXPECT_NEAR(std::log(2.0) + 2e4, call.loss(), 1e-2);
  expect_close(call.logits, std::vector<double>{-0.5, 0, 0, 0.5, 1, -1, 0, 0}, 1e-30, 1e-6);
}

TEST(CrossEntropy, CountsTheLowestOfTiedMaximaAsPrediction) {
  for (const auto& [target, hits] : std::vector<std::pair<int32_t, double>>{{1, 1.0}, {39, 0.0}}) {
    Call call(1, 40, {target});
    std::fill_n(call.logits.data<float>(), 40, 0.5f);
    call.logits.data<float>()[1] = 2.0f;
    call.logits.data<float>()[39] = 2.0f;
    call.run(false);
    EXPECT_EQ(hits, call.hits()) << target;
  }
}

TEST(CrossEntropy, KeepsNaNVisible) {
  Call call(1, 40, {3});
  call.logits.data<float>()[20] = std::nanf("");
  call.run(true);
  EXPECT_TRUE(std::isnan(call.loss()));
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
