// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_identical;
using testing::GuardedMemory;
using testing::kActivationTypes;

// The same logits, rounded to `dtype`, on both devices. On the GPU the vocabulary is split over
// `ranks`, which run one after the other on columns of the whole logits.
struct Call : testing::Backends {
  Call(const Tensor& values, const std::vector<int32_t>& target_ids, DType type, int64_t extra,
       int rank_count = 1)
      : dtype(type), ranks(rank_count) {
    host_logits = memory.copy_of(values);
    logits = pair(host_logits, dtype, extra).gpu;
    host_targets = memory.of<int32_t>({values.dim(0)}, target_ids);
    targets = device.copy_of(host_targets);
    host_sums = memory.of<double>({3}, {0.5, 2.0, 1.0});
    for (int rank = 0; rank < ranks; ++rank) sums.push_back(device.copy_of(host_sums));
    const int64_t rows = values.dim(0);
    statistics = device.poisoned(DType::kF64, {ranks, rows, kCrossEntropyStatistics});
    host_statistics = memory.poisoned(DType::kF64, {1, rows, kCrossEntropyStatistics});
  }
  static Tensor rank_of(const Tensor& stacked, int rank) {
    return stacked.rows(rank, rank + 1).reshaped({stacked.dim(1), stacked.dim(2)});
  }
  void run(bool write_gradient) {
    const auto begin_of = [&](int rank) { return logits.dim(1) * rank / ranks; };
    std::vector<Tensor> parts;
    for (int rank = 0; rank < ranks; ++rank) {
      parts.push_back(ranks == 1 ? logits : logits.columns(begin_of(rank), begin_of(rank + 1)));
      cross_entropy_statistics(rank_of(statistics, rank), parts.back(), targets,
                               {begin_of(rank), rank}, write_gradient, gpu);
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      const int rank = static_cast<int>(i);
      cross_entropy(parts[i], targets, statistics, {begin_of(rank), rank}, sums[i], write_gradient,
                    gpu);
    }
    cross_entropy_statistics(rank_of(host_statistics, 0), host_logits, host_targets, {},
                             write_gradient, cpu);
    cross_entropy(host_logits, host_targets, host_statistics, {}, host_sums, write_gradient, cpu);
  }
  double sum(int index) { return device.to_host(sums[0], memory).data<double>()[index]; }
  void expect_same() {
    const double loss = host_sums.data<double>()[0];
    EXPECT_NEAR(loss, sum(0), 2e-6 * (1.0 + std::abs(loss)));
    EXPECT_EQ(host_sums.data<double>()[1], sum(1));
    EXPECT_EQ(host_sums.data<double>()[2], sum(2));
    for (const Tensor& of_rank : sums) {
      expect_identical(device.to_host(of_rank, memory), device.to_host(sums[0], memory));
    }
    const auto expected = GuardedMemory::elements(host_logits);
    const std::vector<double> gradient(expected.begin(), expected.end());
    const bool exact = dtype == DType::kF32;
    expect_close(device.to_host(logits, memory), gradient, exact ? 5e-7 : 5e-6,
                 exact ? 1e-5 : 5e-3);
  }

  DType dtype;
  int ranks;
  Tensor logits, targets, statistics, host_logits, host_targets, host_statistics, host_sums;
  std::vector<Tensor> sums;  // of each rank
};

std::vector<int32_t> some_targets(int64_t rows, int64_t vocabulary) {
  std::vector<int32_t> out;
  for (int64_t t = 0; t < rows; ++t) {
    out.push_back(t % 4 == 3 ? -100 : static_cast<int32_t>((t + 1) * 7919 % vocabulary));
  }
  return out;
}

TEST(CrossEntropyCuda, AgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const auto& [rows, vocabulary] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {1, 24}, {3, 33}, {65, 7}, {40, 5001}, {700, 172}, {4, 32000}, {5, 128257}}) {
    for (const DType dtype : kActivationTypes) {
      for (const int64_t extra : {0, 8, 3}) {
        SCOPED_TRACE(::testing::Message()
                     << rows << " x " << vocabulary << " " << name_of(dtype) << " extra " << extra);
        GuardedMemory memory;
        Call call(memory.normal({rows, vocabulary}, 3.0f), some_targets(rows, vocabulary), dtype,
                  extra);
        call.run(true);
        call.expect_same();
      }
    }
  }
}

// A target in every place of an unaligned row: before, in and behind the aligned packs.
TEST(CrossEntropyCuda, FindsEveryTarget) {
  RW_REQUIRE_GPU();
  for (const DType dtype : kActivationTypes) {
    GuardedMemory memory;
    const int64_t vocabulary = 37;
    std::vector<int32_t> targets;
    for (int32_t t = 0; t < vocabulary; ++t) targets.push_back(t);
    const Tensor logits = memory.normal({vocabulary, vocabulary});
    for (int64_t t = 0; t < vocabulary; t += 2) logits.data<float>()[t * vocabulary + t] = 9.0f;
    Call call(logits, targets, dtype, 0);
    call.run(true);
    call.expect_same();
    EXPECT_LE(1.0 + 19.0, call.sum(2));
  }
}

TEST(CrossEntropyCuda, OfASplitVocabularyAgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const auto& [rows, vocabulary] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 4}, {65, 7}, {33, 5001}, {700, 172}, {5, 32001}}) {
    for (const DType dtype : kActivationTypes) {
      for (const int64_t extra : {0, 3}) {
        for (const int ranks : {2, 3, 4}) {
          SCOPED_TRACE(::testing::Message() << rows << " x " << vocabulary << " over " << ranks
                                            << " " << name_of(dtype) << " extra " << extra);
          GuardedMemory memory;
          Call call(memory.normal({rows, vocabulary}, 3.0f), some_targets(rows, vocabulary), dtype,
                    extra, ranks);
          call.run(true);
          call.expect_same();
        }
      }
    }
  }
}

TEST(CrossEntropyCuda, LeavesLogitsAloneWithoutGradient) {
  RW_REQUIRE_GPU();
  GuardedMemory memory;
  Call call(memory.normal({5, 1001}), {1, 2, -1, 3, 1000}, DType::kBF16, 0);
  call.run(false);
  call.run(false);  // adds
  call.expect_same();
}

TEST(CrossEntropyCuda, CountsTheLowestOfTiedMaximaAsPrediction) {
  RW_REQUIRE_GPU();
  const int64_t vocabulary = 9001;
  for (const auto& [first, second] : std::vector<std::pair<int32_t, int32_t>>{
           {0, 9000}, {1, 2}, {5, 4101}, {4095, 4096}, {3000, 8999}}) {
    for (const DType dtype : kActivationTypes) {
      GuardedMemory memory;
      const Tensor logits = memory.uniform({4, vocabulary}, -1.0f, 0.5f);
      for (int64_t t = 0; t < 4; ++t) {
        logits.data<float>()[t * vocabulary + first] = 2.0f;
        logits.data<float>()[t * vocabulary + second] = 2.0f;
      }
      for (const int ranks : {1, 2, 4}) {
        Call call(logits, {first, second, first, second}, dtype, 0, ranks);
        call.run(false);
        EXPECT_EQ(1.0 + 2.0, call.sum(2)) << first << ", " << second << " over " << ranks;
      }
    }
  }
}

TEST(CrossEntropyCuda, HugeAndInfiniteLogitsDoNotOverflow) {
  RW_REQUIRE_GPU();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const DType dtype : kActivationTypes) {
    for (const int ranks : {1, 3, 4}) {  // of three, the first has only infinities in its columns
      GuardedMemory memory;
      Call call(memory.of<float>({2, 9}, {1e4f, -1e4f, 0, 1e4f, 1, 2, 3, 4, 5,  //
                                          -kInf, -kInf, -kInf, -kInf, 2, 1, 0, -kInf, -kInf}),
                {0, 4}, dtype, 0, ranks);
      call.run(true);
      call.expect_same();
    }
  }
}

TEST(CrossEntropyCuda, KeepsNaNVisible) {
  RW_REQUIRE_GPU();
  for (const int ranks : {1, 2, 4}) {
    GuardedMemory memory;
    const Tensor logits = memory.normal({1, 40});
    logits.data<float>()[20] = std::nanf("");
    Call call(logits, {3}, DType::kBF16, 0, ranks);
    call.run(true);
    EXPECT_TRUE(std::isnan(call.sum(0)));
  }
}

TEST(CrossEntropyCuda, RepeatsItsBits) {
  RW_REQUIRE_GPU();
  GuardedMemory memory;
  const Tensor logits = memory.normal({1500, 999}, 3.0f);
  Call one(logits, some_targets(1500, 999), DType::kBF16, 0);
  one.run(true);
  Call two(logits, some_targets(1500, 999), DType::kBF16, 0);
  two.run(true);
  EXPECT_EQ(one.sum(0), two.sum(0));
  expect_identical(one.device.to_host(one.logits, one.memory),
                   two.device.to_host(two.logits, two.memory));
}

TEST(CrossEntropyCuda, MeasuresTheScratchMemoryItTakes) {
  RW_REQUIRE_GPU();
  GuardedMemory memory;
  Call call(memory.normal({65, 40}), some_targets(65, 40), DType::kBF16, 0);
  Stream measuring(call.gpu.device(), Stream::Mode::kMeasure);
  cross_entropy_statistics(Call::rank_of(call.statistics, 0), call.logits, call.targets, {}, true,
                           measuring);
  cross_entropy(call.logits, call.targets, call.statistics, {}, call.sums[0], true, measuring);
  call.run(true);
  EXPECT_GT(measuring.scratch_peak_bytes(), 0u);
  EXPECT_EQ(measuring.scratch_peak_bytes(), call.gpu.scratch_peak_bytes());
}

}  // namespace
}  // namespace rankwise
