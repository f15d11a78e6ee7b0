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

// Two adapted layers of unequal size, the last with singular values, around one without an adapter.
struct Rig {
  GuardedMemory memory;
  Stream stream;
  std::vector<Weight> weights = {memory.uniform({9, kIn}), memory.uniform({5, kIn}),
                                 memory.uniform({7, kIn})};
  std::vector<LowRankLinear> layers = {
      {&weights[0], memory.uniform({4, kIn}), memory.uniform({9, 4}), 0.5f},
      {&weights[1]},
      {&weights[2], memory.uniform({2, kIn}), memory.uniform({7, 2}), -2.0f, memory.uniform({2})}};
  Tensor x = memory.uniform({kTokens, kIn});
  std::vector<Tensor> ys, downs, dys, ddowns;
  std::vector<LowRankGradients> gradients;

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
      const auto zeros = [&](const Tensor& like) {
        return like.defined() ? memory.zeros(like.shape()) : Tensor();
      };
      gradients.push_back({zeros(layer.a), zeros(layer.b), zeros(layer.e)});
    }
  }

  void forward(const Tensor& addend = {}) { low_rank_linear(ys, downs, x, layers, addend, stream); }
  void backward(const Tensor& dx, float beta) {
    low_rank_linear_backward_input(dx, ddowns, dys, layers, beta, stream);
    low_rank_linear_backward_weight(gradients, ddowns, dys, downs, x, layers, stream);
  }
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

// x W^T + s ((x A^T) * e) B^T, straight from the formula.
std::vector<double> reference(const Tensor& x, const LowRankLinear& layer) {
  std::vector<double> y;
  for (int64_t t = 0; t < x.dim(0); ++t) {
    for (int64_t o = 0; o < layer.out(); ++o) {
      double sum = 0.0;
      for (int64_t i = 0; i < layer.in(); ++i) {
        double merged = layer.weight == nullptr ? 0.0 : at(std::get<Tensor>(*layer.weight), o, i);
        for (int64_t r = 0; r < layer.rank(); ++r) {
          const double e = layer.e.defined() ? layer.e.data<float>()[r] : 1.0;
          merged += layer.scale * e * at(layer.b, o, r) * at(layer.a, r, i);
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
  rig.backward(dx, 0.0f);
  const auto loss = [&] { return rig.loss(); };
  expect_gradient(rig.x, dx, loss);
  for (const size_t i : {0, 2}) {
    expect_gradient(rig.layers[i].a, rig.gradients[i].da, loss);
    expect_gradient(rig.layers[i].b, rig.gradients[i].db, loss);
  }
  expect_gradient(rig.layers[2].e, rig.gradients[2].de, loss);
}

TEST(LowRankLinear, WithoutWeightsTheTermsAreAlone) {
  Rig rig;
  for (auto* list : {&rig.ys, &rig.dys, &rig.downs, &rig.ddowns}) list->erase(list->begin() + 1);
  rig.layers.erase(rig.layers.begin() + 1);
  rig.gradients.erase(rig.gradients.begin() + 1);
  for (LowRankLinear& layer : rig.layers) layer.weight = nullptr;
  rig.forward();
  for (size_t i = 0; i < 2; ++i) {
    expect_close(rig.ys[i], reference(rig.x, rig.layers[i]), 1e-5, 1e-5);
  }
  const Tensor dx = rig.memory.poisoned(rig.x.shape());
  rig.backward(dx, 0.0f);
  expect_gradient(rig.x, dx, [&] { return rig.loss(); });
}

TEST(LowRankLinear, AddsItsTermToAWeight) {
  Rig rig;
  for (const size_t i : {0, 2}) {
    const LowRankLinear& layer = rig.layers[i];
    const std::vector<double> expected = reference(rig.x, layer);
    add_low_rank_product(std::get<Tensor>(rig.weights[i]), layer, rig.stream);
    LowRankLinear merged;
    merged.weight = &rig.weights[i];
    low_rank_linear({&rig.ys[i], 1}, {&rig.downs[i], 1}, rig.x, {&merged, 1}, {}, rig.stream);
    expect_close(rig.ys[i], expected, 1e-5, 1e-5);
  }
}

TEST(LowRankLinear, BackwardAddsToWhatIsThere) {
  Rig rig;
  rig.forward();
  const Tensor dx = rig.memory.poisoned(rig.x.shape());
  rig.backward(dx, 0.0f);
  const LowRankGradients& gradients = rig.gradients[2];
  std::vector<Tensor> once;
  for (const Tensor& x : {gradients.da, gradients.db, gradients.de}) {
    once.push_back(rig.memory.copy_of(x));
  }
  const Tensor start = rig.memory.uniform(rig.x.shape());
  const Tensor added = rig.memory.copy_of(start);
  rig.backward(added, 2.0f);
  std::vector<double> sums;
  for (int64_t i = 0; i < dx.numel(); ++i) {
    sums.push_back(2.0 * start.data<float>()[i] + dx.data<float>()[i]);
  }
  expect_close(added, sums, 1e-5, 1e-5);
  const Tensor twice[] = {gradients.da, gradients.db, gradients.de};
  for (size_t i = 0; i < 3; ++i) {
    std::vector<double> doubled;
    for (const float value : GuardedMemory::elements(once[i])) doubled.push_back(2.0 * value);
    expect_close(twice[i], doubled, 1e-5, 1e-5);
  }
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
  QuantizedTensor q = allocate_nf4(MatrixSlice::all({9, kIn}), true, DType::kF32, arena, "weights");
  quantize_nf4(q, std::get<Tensor>(rig.weights[0]), rig.stream);
  dequantize(std::get<Tensor>(rig.weights[0]), q, rig.stream);
  const std::vector<double> expected = reference(rig.x, rig.layers[0]);
  const Weight quantized = q;
  rig.layers[0].weight = &quantized;
  rig.forward();
  expect_close(rig.ys[0], expected, 1e-5, 1e-5);
}

// One adapted layer whose matrices are also used in slices; whatever is written is added to.
struct Layer {
  GuardedMemory memory;
  Stream stream;
  int64_t in, out = 12, rank = 3;
  Tensor x = memory.uniform({kTokens, in}), w = memory.uniform({out, in});
  Tensor a = memory.uniform({rank, in}), b = memory.uniform({out, rank}),
         e = memory.uniform({rank});
  Tensor dy = memory.uniform({kTokens, out});
  Tensor y = memory.uniform(dy.shape()), dx = memory.uniform(x.shape());
  Tensor da = memory.uniform(a.shape()), db = memory.uniform(b.shape());
  Tensor de = memory.uniform(e.shape());
  Tensor c = memory.uniform({out});

  explicit Layer(int64_t columns) : in(columns) {}

  // Both passes of this part of the layer.
  void run(const MatrixSlice& slice) {
    const auto in_slice = [&](const Tensor& matrix) {
      return matrix.columns(slice.column_begin, slice.column_end);
    };
    const auto out_slice = [&](const Tensor& matrix) {
      return matrix.columns(slice.row_begin, slice.row_end);
    };
    const Weight weight = in_slice(w.rows(slice.row_begin, slice.row_end));
    const LowRankLinear layers[] = {{&weight, in_slice(a), b.rows(slice.row_begin, slice.row_end),
                                     0.5f, e, c.rows(slice.row_begin, slice.row_end)}};
    const Tensor downs[] = {memory.poisoned({kTokens, rank})};
    const Tensor ddowns[] = {memory.poisoned({kTokens, rank})};
    const Tensor ys[] = {out_slice(y)}, dys[] = {out_slice(dy)};
    const LowRankGradients gradients[] = {
        {in_slice(da), db.rows(slice.row_begin, slice.row_end), de}};
    low_rank_linear(ys, downs, in_slice(x), layers, ys[0], stream);
    low_rank_linear_backward_input(in_slice(dx), ddowns, dys, layers, 1.0f, stream);
    low_rank_linear_backward_weight(gradients, ddowns, dys, downs, in_slice(x), layers, stream);
  }
};

std::vector<double> in_double(const Tensor& x) {
  const auto elements = GuardedMemory::elements(x);
  return {elements.begin(), elements.end()};
}

void expect_same(const Layer& actual, const Layer& expected) {
  expect_close(actual.y, in_double(expected.y), 1e-4, 1e-5);
  expect_close(actual.dx, in_double(expected.dx), 1e-4, 1e-5);
  expect_close(actual.da, in_double(expected.da), 1e-4, 1e-5);
  expect_close(actual.db, in_double(expected.db), 1e-4, 1e-5);
  expect_close(actual.de, in_double(expected.de), 1e-4, 1e-5);
}

// How ranks share a layer whose columns are split; each adds to all of db and de and to its part of
// da.
TEST(LowRankLinear, ColumnSlicesTogetherMakeTheWhole) {
  for (const auto& [in, cut] : {std::pair<int64_t, int64_t>{172, 43}, {172, 86}, {4096, 2048}}) {
    Layer whole(in), parts(in);
    const Shape shape = whole.w.shape();
    whole.run(MatrixSlice::all(shape));
    const Tensor before = parts.memory.copy_of(parts.da);
    parts.run({shape, 0, shape.dim(0), 0, cut});
    for (int64_t r = 0; r < parts.rank; ++r) {
      for (int64_t c = cut; c < in; ++c) ASSERT_EQ(at(parts.da, r, c), at(before, r, c));
    }
    parts.run({shape, 0, shape.dim(0), cut, in});
    expect_same(parts, whole);
  }
}

TEST(LowRankLinear, RowSlicesTogetherMakeTheWhole) {
  Layer whole(43), parts(43);
  const Shape shape = whole.w.shape();
  whole.run(MatrixSlice::all(shape));
  const Tensor before = parts.memory.copy_of(parts.db);
  parts.run({shape, 5, shape.dim(0), 0, 43});
  expect_identical(parts.db.rows(0, 5), before.rows(0, 5));
  parts.run({shape, 0, 5, 0, 43});
  expect_same(parts, whole);
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
