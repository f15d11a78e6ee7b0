// SPDX-License-Identifier: Apache-2.0
#include "kernels/low_rank_linear.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/quantize.h"
#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_gradient;
using testing::expect_identical;
using testing::GuardedMemory;
using testing::weighted_sum;

constexpr int64_t kTokens = 6;
constexpr int64_t kIn = 11;

// Two adapted layers of unequal size around one without an adapter.
struct Rig {
  GuardedMemory memory;
  Stream stream;
  std::vector<Weight> weights = {memory.uniform({9, kIn}), memory.uniform({5, kIn}),
                                 memory.uniform({7, kIn})};
  std::vector<LowRankLinear> layers = {
      {&weights[0], memory.uniform({4, kIn}), memory.uniform({9, 4}), 0.5f},
      {&weights[1], {}, {}, 0.0f},
      {&weights[2], memory.uniform({2, kIn}), memory.uniform({7, 2}), -2.0f}};
  Tensor x = memory.uniform({kTokens, kIn});
  std::vector<Tensor> ys, downs, dys, ddowns, das, dbs;

  Rig() {
    for (const LowRankLinear& layer : layers) {
      const bool adapted = layer.rank() > 0;
      const auto narrow = [&] {
        return adapted ? memory.poisoned({kTokens, layer.rank()}) : Tensor();
      };
      ys.push_back(memory.poisoned({kTokens, layer.out()}));
      dys.push_back(memory.uniform({kTokens, layer.out()}));
      downs.push_back(narrow());
      ddowns.push_back(narrow());
      das.push_back(adapted ? memory.zeros(layer.a.shape()) : Tensor());
      dbs.push_back(adapted ? memory.zeros(layer.b.shape()) : Tensor());
    }
  }

  void forward(const Tensor& addend = {}) { low_rank_linear(ys, downs, x, layers, addend, stream); }
  double loss() {
    forward();
    double sum = 0.0;
    for (size_t i = 0; i < ys.size(); ++i) sum += weighted_sum(ys[i], dys[i]);
    return sum;
  }
};

double at(const Tensor& x, int64_t row, int64_t column) {
  return x.data<float>()[row * x.row_stride() + column];
}

// x W^T + s (x A^T) B^T, straight from the formula.
std::vector<double> reference(const Tensor& x, const LowRankLinear& layer) {
  const Tensor& w = std::get<Tensor>(*layer.weight);
  std::vector<double> y;
  for (int64_t t = 0; t < x.dim(0); ++t) {
    for (int64_t o = 0; o < layer.out(); ++o) {
      double sum = 0.0;
      for (int64_t i = 0; i < layer.in(); ++i) {
        double merged = at(w, o, i);
        for (int64_t r = 0; r < layer.rank(); ++r) {
          merged += static_cast<double>(layer.scale) * at(layer.b, o, r) * at(layer.a, r, i);
        }
        sum += at(x, t, i) * merged;
      }
      y.push_back(sum);
    }
  }
  return y;
}

TEST(LowRankLinear, ForwardAgreesWithTheFormula) {
  Rig rig;
  rig.forward();
  for (size_t i = 0; i < rig.layers.size(); ++i) {
    expect_close(rig.ys[i], reference(rig.x, rig.layers[i]), 1e-5, 1e-5);
  }
}

TEST(LowRankLinear, AddendIsAddedWhereverItLies) {
  Rig rig;
  rig.layers.resize(1);
  rig.ys.resize(1);
  rig.downs.resize(1);
  const Tensor addend = rig.memory.uniform(rig.ys[0].shape());
  std::vector<double> expected = reference(rig.x, rig.layers[0]);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += addend.data<float>()[i];
  rig.forward(addend);
  expect_close(rig.ys[0], expected, 1e-5, 1e-5);

  const Tensor other = rig.memory.copy_of(rig.ys[0]);
  rig.ys[0] = rig.memory.copy_of(addend);
  rig.forward(rig.ys[0]);
  expect_identical(rig.ys[0], other);
}

TEST(LowRankLinear, GradientsMatchFiniteDifferences) {
  Rig rig;
  rig.forward();
  const Tensor dx = rig.memory.poisoned(rig.x.shape());
  low_rank_linear_backward_input(dx, rig.ddowns, rig.dys, rig.layers, 0.0f, rig.stream);
  low_rank_linear_backward_weight(rig.das, rig.dbs, rig.ddowns, rig.dys, rig.downs, rig.x,
                                  rig.layers, rig.stream);
  const auto loss = [&] { return rig.loss(); };
  expect_gradient(rig.x, dx, loss);
  for (const size_t i : {0, 2}) {
    expect_gradient(rig.layers[i].a, rig.das[i], loss);
    expect_gradient(rig.layers[i].b, rig.dbs[i], loss);
  }
}

TEST(LowRankLinear, BackwardAddsToWhatIsThere) {
  Rig rig;
  rig.forward();
  const Tensor dx = rig.memory.poisoned(rig.x.shape());
  const auto backward = [&](const Tensor& to, float beta) {
    low_rank_linear_backward_input(to, rig.ddowns, rig.dys, rig.layers, beta, rig.stream);
    low_rank_linear_backward_weight(rig.das, rig.dbs, rig.ddowns, rig.dys, rig.downs, rig.x,
                                    rig.layers, rig.stream);
  };
  backward(dx, 0.0f);
  const Tensor da = rig.memory.copy_of(rig.das[0]);
  const Tensor start = rig.memory.uniform(rig.x.shape());
  const Tensor added = rig.memory.copy_of(start);
  backward(added, 2.0f);
  std::vector<double> sums, doubled;
  for (int64_t i = 0; i < dx.numel(); ++i) {
    sums.push_back(2.0 * start.data<float>()[i] + dx.data<float>()[i]);
  }
  for (const float value : GuardedMemory::elements(da)) doubled.push_back(2.0 * value);
  expect_close(added, sums, 1e-5, 1e-5);
  expect_close(rig.das[0], doubled, 1e-5, 1e-5);
}

TEST(LowRankLinear, AnUnwantedInputGradientLeavesTheOthersAsTheyAre) {
  Rig rig;
  const Tensor dx = rig.memory.poisoned(rig.x.shape());
  low_rank_linear_backward_input(dx, rig.ddowns, rig.dys, rig.layers, 0.0f, rig.stream);
  const Tensor expected = rig.memory.copy_of(rig.ddowns[2]);
  rig.ddowns[2] = rig.memory.poisoned(expected.shape());
  low_rank_linear_backward_input({}, rig.ddowns, rig.dys, rig.layers, 0.0f, rig.stream);
  expect_identical(rig.ddowns[2], expected);
}

TEST(LowRankLinear, QuantisedWeightsGiveTheProductOfTheirDecodedValues) {
  Rig rig;
  Arena arena;
  QuantizedTensor q = allocate_nf4({9, kIn}, true, DType::kF32, arena, "weights");
  quantize_nf4(q, std::get<Tensor>(rig.weights[0]), rig.stream);
  dequantize(std::get<Tensor>(rig.weights[0]), q, rig.stream);
  const std::vector<double> expected = reference(rig.x, rig.layers[0]);
  const Weight quantized = q;
  rig.layers[0].weight = &quantized;
  rig.forward();
  expect_close(rig.ys[0], expected, 1e-5, 1e-5);
}

TEST(LowRankLinearDeathTest, WrongShapesAbortWithTheirNames) {
  Rig rig;
  rig.downs[0] = rig.memory.poisoned({kTokens, 3});
  EXPECT_DEATH(rig.forward(), "low_rank_linear: down has shape");
  Rig other;
  EXPECT_DEATH(other.forward(other.ys[0]), "addend of 3 layers");
}

}  // namespace
}  // namespace rankwise
