// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/adalora_adapter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "runtime/rng.h"
#include "tests/model/adapters/adapter_bench.h"

namespace rankwise {
namespace {

using Bench = testing::AdapterBench<AdaLoraAdapter, AdaLoraOptions>;

Parameter& e_of(Bench& bench) { return bench.with(ParameterRole::kLoraE); }

// A = [1, 2], E = 0.5, B = 3, alpha = 4, x = (1, 1).
struct WorkedExample : Bench {
  WorkedExample() : Bench(2, 1, {.rank = 1, .alpha = 4.0}) {
    set(a().dense(), {1, 2});
    set(e_of(*this).dense(), {0.5});
    set(b().dense(), {3});
  }
  void expect_gradients() {
    EXPECT_NEAR(Bench::values(e_of(*this).gradient)[0], 35.99964, 1e-5);
    EXPECT_NEAR(Bench::values(b().gradient)[0], 5.99994, 1e-6);
    for (const float value : Bench::values(a().gradient)) EXPECT_NEAR(value, 5.99994, 1e-6);
  }
  Tensor x = of({1, 2}, {1, 1});
  Tensor one = of({1, 1}, {1});
};

TEST(AdaLoraAdapter, EqualsAWorkedExample) {
  WorkedExample bench;
  const Tensor y = bench.zeros({1, 1});
  const auto saved = bench.adapter.forward(y, bench.x, bench.context);
  EXPECT_NEAR(Bench::values(y)[0], 17.99982, 5e-6);
  bench.adapter.backward({}, bench.one, bench.x, *saved, bench.context);
  bench.expect_gradients();
  const Tensor w = bench.of({1, 2}, {1, -1});
  bench.adapter.merge_into(w, bench.stream);
  EXPECT_NEAR(Bench::values(w)[0], 1 + 5.99994, 1e-6);
  EXPECT_NEAR(Bench::values(w)[1], -1 + 2 * 5.99994, 2e-6);
}

TEST(AdaLoraAdapter, ItsTermEqualsTheWorkedExample) {
  WorkedExample bench;
  const auto term = bench.adapter.low_rank_term(bench.context);
  ASSERT_TRUE(term.has_value());
  const Weight none = bench.zeros({1, 2});
  const LowRankLinear layer = term->beside(&none);
  const Tensor y = bench.zeros({1, 1}), down = bench.zeros({1, 1}), ddown = bench.zeros({1, 1});
  const Tensor dx = bench.zeros({1, 2});
  low_rank_linear({&y, 1}, {&down, 1}, bench.x, {&layer, 1}, {}, bench.stream);
  EXPECT_NEAR(Bench::values(y)[0], 17.99982, 5e-6);
  low_rank_linear_backward_input(dx, {&ddown, 1}, {&bench.one, 1}, {&layer, 1}, 0.0f, bench.stream);
  low_rank_linear_backward_weight({&term->gradients, 1}, {&ddown, 1}, {&bench.one, 1}, {&down, 1},
                                  bench.x, {&layer, 1}, bench.stream);
  bench.expect_gradients();
  EXPECT_NEAR(Bench::values(dx)[1], 2 * 5.99994, 2e-6);
}

TEST(AdaLoraAdapter, StartsAsTheIdentityWithNormalMatrices) {
  Bench bench(512, 384, {.rank = 64});
  for (const float e : Bench::values(e_of(bench).dense())) EXPECT_EQ(e, 0.0f);
  for (Parameter* parameter : {&bench.a(), &bench.b()}) {
    double square = 0.0, fourth = 0.0;
    const std::vector<float> values = Bench::values(parameter->dense());
    for (const float value : values) {
      square += std::pow(value, 2.0) / static_cast<double>(values.size());
      fourth += std::pow(value, 4.0) / static_cast<double>(values.size());
    }
    EXPECT_NEAR(square, 4e-4, 0.03 * 4e-4);
    EXPECT_NEAR(fourth / (square * square), 3.0, 0.15);
  }
  EXPECT_NE(Bench::values(bench.a().dense())[0], Bench::values(bench.b().dense())[0]);
}

TEST(AdaLoraAdapter, ScaleIsAlphaOverTheInitialRank) {
  EXPECT_FLOAT_EQ(Bench(4, 4, {.rank = 12, .alpha = 16.0}).adapter.scale(), 1.33333222f);
}

TEST(AdaLoraAdapter, BackwardThroughDropoutMatchesFiniteDifferences) {
  Bench bench(5, 3, {.rank = 2, .alpha = 3.0, .dropout = 0.4f});
  ASSERT_FALSE(bench.adapter.low_rank_term(bench.context).has_value());
  uint64_t draws = 0;
  const auto random = [&](const Tensor& tensor) {
    Rng(1, "test", draws++)
        .fill_normal({tensor.data<float>(), static_cast<size_t>(tensor.numel())}, 0.0f, 1.0f);
    return tensor;
  };
  for (Parameter* parameter : bench.adapter.parameters()) random(parameter->dense());
  const Tensor x = random(bench.zeros({4, 5})), dy = random(bench.zeros({4, 3}));
  const Tensor dx = bench.zeros({4, 5});
  const auto saved = bench.adapter.forward(bench.zeros({4, 3}), x, bench.context);
  bench.adapter.backward(dx, dy, x, *saved, bench.context);
  bench.expect_gradient(x, dx, x, dy);
  ASSERT_EQ(bench.adapter.parameters().size(), 3u);
  for (Parameter* parameter : bench.adapter.parameters()) {
    bench.expect_gradient(parameter->dense(), parameter->gradient, x, dy);
  }
}

TEST(AdaLoraAdapter, RanksSeeSlicesOfTheMatricesAndAllSingularValues) {
  const AdaLoraOptions options{.rank = 3};
  Bench columns({"m.o_proj", 8, 6, ShardSpec::sharded(1), 1, 2}, options);
  const auto term = columns.adapter.low_rank_term(columns.context);
  EXPECT_EQ(term->a.raw(), columns.a().dense().columns(4, 8).raw());
  EXPECT_EQ(term->gradients.da.shape(), Shape({3, 4}));
  EXPECT_EQ(term->b.shape(), Shape({6, 3}));
  EXPECT_EQ(term->e.shape(), Shape({3}));
  EXPECT_EQ(term->gradients.de.raw(), e_of(columns).gradient.raw());
  Bench rows({"m.q_proj", 8, 6, ShardSpec::sharded(0), 1, 2}, options);
  const auto other = rows.adapter.low_rank_term(rows.context);
  EXPECT_EQ(other->b.raw(), rows.b().dense().rows(3, 6).raw());
  EXPECT_EQ(other->a.shape(), Shape({3, 8}));
  EXPECT_EQ(other->e.shape(), Shape({3}));
}

TEST(AdaLoraAdapter, IsNamedAsPeftNamesIt) {
  Bench bench(64, 128, {.rank = 6});
  EXPECT_EQ(bench.adapter.method(), "adalora");
  std::vector<std::string> names;
  for (const Parameter* parameter : bench.adapter.parameters()) names.push_back(parameter->name);
  const std::string module = "model.layers.0.mlp.up_proj.";
  EXPECT_EQ(names,
            (std::vector<std::string>{module + "lora_B", module + "lora_E", module + "lora_A"}));
}

}  // namespace
}  // namespace rankwise
