// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/lora_adapter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "runtime/rng.h"
#include "tests/model/adapters/adapter_bench.h"

namespace rankwise {
namespace {

using Bench = testing::AdapterBench<LoraAdapter, LoraOptions>;

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0.0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    largest = std::max<double>(largest, std::abs(a[i] - b[i]));
  }
  return largest;
}

TEST(LoraAdapter, ForwardAndBackwardEqualAWorkedExample) {
  // W = [[1, 2], [3, 4]], A = [[1, -1]], B = [[2], [0]], alpha 4, x = (1, 3).
  Bench bench(2, 2, {.rank = 1, .alpha = 4.0});
  bench.set(bench.a().dense(), {1, -1});
  bench.set(bench.b().dense(), {2, 0});
  const Tensor x = bench.of({1, 2}, {1, 3});
  const Tensor y = bench.of({1, 2}, {7, 15});  // W x
  const auto saved = bench.adapter.forward(y, x, bench.context);
  EXPECT_EQ(Bench::values(y), (std::vector<float>{-9, 15}));

  const Tensor dx = bench.of({1, 2}, {4, 6});  // dy W
  bench.adapter.backward(dx, bench.of({1, 2}, {1, 1}), x, *saved, bench.context);
  EXPECT_EQ(Bench::values(bench.b().gradient), (std::vector<float>{-8, -8}));
  EXPECT_EQ(Bench::values(bench.a().gradient), (std::vector<float>{8, 24}));
  EXPECT_EQ(Bench::values(dx), (std::vector<float>{12, -2}));

  const Tensor w = bench.of({2, 2}, {1, 2, 3, 4});
  bench.adapter.merge_into(w, bench.stream);
  EXPECT_EQ(Bench::values(w), (std::vector<float>{9, -6, 3, 4}));
}

TEST(LoraAdapter, GradientsAccumulate) {
  Bench bench(2, 2, {.rank = 1, .alpha = 4.0});
  bench.set(bench.a().dense(), {1, -1});
  bench.set(bench.b().dense(), {2, 0});
  const Tensor x = bench.of({1, 2}, {1, 3});
  const Tensor dy = bench.of({1, 2}, {1, 1});
  for (int pass = 0; pass < 2; ++pass) {
    const auto saved = bench.adapter.forward(bench.zeros({1, 2}), x, bench.context);
    bench.adapter.backward({}, dy, x, *saved, bench.context);  // dx is not wanted
  }
  EXPECT_EQ(Bench::values(bench.b().gradient), (std::vector<float>{-16, -16}));
  EXPECT_EQ(Bench::values(bench.a().gradient), (std::vector<float>{16, 48}));
}

TEST(LoraAdapter, StartsAsTheIdentityWithUniformA) {
  Bench bench(1024, 8, {.rank = 64});
  EXPECT_TRUE(
      std::ranges::all_of(Bench::values(bench.b().dense()), [](float b) { return b == 0; }));
  double square = 0.0;
  double fourth = 0.0;
  float largest = 0.0f;
  const std::vector<float> a = Bench::values(bench.a().dense());
  for (const float value : a) {
    largest = std::max(largest, std::abs(value));
    square += std::pow(value, 2.0) / static_cast<double>(a.size());
    fourth += std::pow(value, 4.0) / static_cast<double>(a.size());
  }
  EXPECT_LE(largest, 0.03125f);                        // 1 / sqrt(in)
  EXPECT_NEAR(square, 3.255e-4, 0.02 * 3.255e-4);      // bound^2 / 3
  EXPECT_NEAR(fourth / (square * square), 1.8, 0.05);  // uniform, not normal
}

TEST(LoraAdapter, ModulesStartDifferently) {
  Bench bench(8, 8, {.rank = 4});
  LoraAdapter other({"model.layers.1.mlp.up_proj", 8, 8, {}}, {.rank = 4}, 42, bench.arena,
                    bench.stream);
  LoraAdapter same({"model.layers.0.mlp.up_proj", 8, 8, {}}, {.rank = 4}, 42, bench.arena,
                   bench.stream);
  EXPECT_NE(Bench::values(other.parameters()[1]->dense()), Bench::values(bench.a().dense()));
  EXPECT_EQ(Bench::values(same.parameters()[1]->dense()), Bench::values(bench.a().dense()));
}

TEST(LoraAdapter, ScaleIsAlphaOverRankOrItsRoot) {
  EXPECT_FLOAT_EQ(Bench(4, 4, {.rank = 4, .alpha = 16.0}).adapter.scale(), 4.0f);
  EXPECT_FLOAT_EQ(Bench(4, 4, {.rank = 8, .alpha = 16.0}).adapter.scale(), 2.0f);
  EXPECT_FLOAT_EQ(Bench(4, 4, {.rank = 4, .alpha = 16.0, .rslora = true}).adapter.scale(), 8.0f);
}

TEST(LoraAdapter, DropoutMasksDependOnTheTokensPlaceOnly) {
  const LoraOptions options{.rank = 2, .alpha = 2.0, .dropout = 0.5f};
  Bench bench(32, 4, options);
  bench.set(bench.b().dense(), std::vector<float>(8, 1.0f));
  const Tensor x = bench.of({6, 32}, std::vector<float>(6 * 32, 1.0f));
  const std::vector<float> whole = bench.output(x);
  bench.context.first_token = 4;
  const std::vector<float> tail = bench.output(x.rows(4, 6));
  // Products of other sizes may round differently; another mask changes far more than that.
  constexpr double kRounding = 1e-5;
  const std::vector<float> end_of_whole(whole.end() - 8, whole.end());
  EXPECT_LT(largest_difference(tail, end_of_whole), kRounding);
  bench.context.first_token = 0;
  EXPECT_GT(largest_difference(bench.output(x.rows(4, 6)), tail), 100 * kRounding);
  bench.context.step = 4;
  EXPECT_GT(largest_difference(bench.output(x), whole), 100 * kRounding);
  EXPECT_FALSE(bench.adapter.low_rank_term(bench.context).has_value());
  bench.context.training = false;  // nothing is dropped
  EXPECT_TRUE(bench.adapter.low_rank_term(bench.context).has_value());
}

// The loss sum(y * weights) is linear in x, A and B each, so that differences are exact up to
// rounding.
TEST(LoraAdapter, BackwardThroughDropoutMatchesFiniteDifferences) {
  Bench bench(5, 3, {.rank = 2, .alpha = 3.0, .dropout = 0.4f});
  const Rng rng(1, "test");
  rng.fill_normal({bench.b().dense().data<float>(), 6}, 0.0f, 1.0f);
  const Tensor x = bench.zeros({4, 5});
  rng.fill_normal({x.data<float>(), 20}, 0.0f, 1.0f);
  const Tensor dy = bench.zeros({4, 3});
  Rng(2, "test").fill_normal({dy.data<float>(), 12}, 0.0f, 1.0f);
  const Tensor dx = bench.zeros({4, 5});
  const auto saved = bench.adapter.forward(bench.zeros({4, 3}), x, bench.context);
  bench.adapter.backward(dx, dy, x, *saved, bench.context);

  bench.expect_gradient(x, dx, x, dy);
  for (Parameter* parameter : {&bench.a(), &bench.b()}) {
    bench.expect_gradient(parameter->dense(), parameter->gradient, x, dy);
  }
}

}  // namespace
}  // namespace rankwise
