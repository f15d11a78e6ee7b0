// SPDX-License-Identifier: Apache-2.0
#include "model/adapters/dora_adapter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "tests/model/adapters/adapter_bench.h"

namespace rankwise {
namespace {

const LinearSite kSite = {"model.layers.0.mlp.up_proj", 2, 2, {}};

// W = [[3, 4], [1, 0]], A = [[1, 1]], B = [[0.5], [1]], s = 2: V = [[4, 5], [3, 2]].
class DoraExample : public ::testing::Test {
 protected:
  DoraExample()
      : alone_(make_single_communicator()),
        context_(arena_, stream_, *alone_, testing::plan_with_seed(7), true, 3),
        base_(of({2, 2}, {3, 4, 1, 0})) {}

  Tensor of(const Shape& shape, const std::vector<float>& values) {
    const Tensor tensor = arena_.allocate("test", DType::kF32, shape);
    std::ranges::copy(values, tensor.data<float>());
    return tensor;
  }

  // Parameters are B, A, m.
  std::unique_ptr<DoraAdapter> make(bool has_magnitude) {
    auto adapter = std::make_unique<DoraAdapter>(kSite, LoraOptions{.rank = 1, .alpha = 2.0},
                                                 has_magnitude, 42, arena_, stream_);
    for (Parameter* parameter : adapter->parameters()) {
      parameter->gradient = arena_.allocate("test", DType::kF32, parameter->dense().shape());
      std::fill_n(parameter->gradient.data<float>(), parameter->gradient.numel(), 0.0f);
    }
    return adapter;
  }
  static void set(Parameter* parameter, const std::vector<float>& values) {
    std::ranges::copy(values, parameter->dense().data<float>());
  }
  // The whole layer's outputs for x (1, 2), as its group computes them.
  std::vector<float> output(DoraAdapter& adapter, const Tensor& x) {
    const auto scope = arena_.scope("workspace");
    if (const auto wanted = adapter.wants_row_squares(base_, context_)) {
      row_squares({&*wanted, 1}, DType::kF32, stream_);
      adapter.take_row_squares(wanted->squares, context_);
    }
    const LowRankLinear layer = adapter.low_rank_term(context_)->beside(&base_);
    const Tensor y = of({1, 2}, {0, 0});
    const Tensor down = of({1, 1}, {0});
    low_rank_linear({&y, 1}, {&down, 1}, x, {&layer, 1}, {}, stream_);
    return {y.data<float>()[0], y.data<float>()[1]};
  }

  Arena arena_;
  Stream stream_;
  std::unique_ptr<Communicator> alone_;
  ForwardContext context_;
  Weight base_;
};

TEST_F(DoraExample, OutputsAndGradientsOfTheMagnitudeEqualAWorkedExample) {
  const auto adapter = make(/*has_magnitude=*/true);
  const auto parameters = adapter->parameters();
  set(parameters[0], {0.5f, 1.0f});
  set(parameters[1], {1.0f, 1.0f});
  set(parameters[2], {5.0f, 1.0f});
  const std::vector<float> y = output(*adapter, of({1, 2}, {1, 2}));
  EXPECT_NEAR(y[0], 10.932163, 1e-5);
  EXPECT_NEAR(y[1], 1.941451, 1e-6);
  column_dots(adapter->output_dots(), of({1, 2}, {1, 1}), of({1, 2}, y), {}, stream_);
  EXPECT_NEAR(parameters[2]->gradient.data<float>()[0], 2.186433, 1e-6);
  EXPECT_NEAR(parameters[2]->gradient.data<float>()[1], 1.941451, 1e-6);
}

TEST_F(DoraExample, StartsAsTheBaseWithTheNormsOfItsRows) {
  const auto adapter = make(/*has_magnitude=*/false);
  const std::vector<float> y = output(*adapter, of({1, 2}, {1, 2}));
  EXPECT_NEAR(y[0], 11.0, 1e-5);
  EXPECT_NEAR(y[1], 1.0, 1e-6);
  const float* m = adapter->parameters()[2]->dense().data<float>();
  EXPECT_FLOAT_EQ(m[0], 5.0f);
  EXPECT_FLOAT_EQ(m[1], 1.0f);
}

TEST_F(DoraExample, NormsAreMadeAnewWhenParametersChanged) {
  const auto adapter = make(/*has_magnitude=*/false);
  const Tensor x = of({1, 2}, {1, 2});
  output(*adapter, x);
  const auto parameters = adapter->parameters();
  set(parameters[0], {0.5f, 1.0f});
  set(parameters[1], {1.0f, 1.0f});
  adapter->parameters_changed();
  const std::vector<float> y = output(*adapter, x);
  EXPECT_NEAR(y[0], 14.0 * 5.0 / std::sqrt(41.0), 1e-5);
  EXPECT_NEAR(y[1], 7.0 / std::sqrt(13.0), 1e-5);
}

TEST_F(DoraExample, MergedRowsHaveTheMagnitudesAsNorms) {
  const auto adapter = make(/*has_magnitude=*/true);
  const auto parameters = adapter->parameters();
  set(parameters[0], {0.5f, 1.0f});
  set(parameters[1], {1.0f, 1.0f});
  set(parameters[2], {5.0f, 1.0f});
  const Tensor merged = of({2, 2}, {3, 4, 1, 0});
  adapter->merge_into(merged, stream_);
  const float* w = merged.data<float>();
  EXPECT_NEAR(w[0] + 2 * w[1], 10.932163, 1e-5);
  EXPECT_NEAR(w[2] + 2 * w[3], 1.941451, 1e-6);
  EXPECT_NEAR(std::hypot(w[0], w[1]), 5.0, 1e-6);
  EXPECT_NEAR(std::hypot(w[2], w[3]), 1.0, 1e-6);
}

}  // namespace
}  // namespace rankwise
