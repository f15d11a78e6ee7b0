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
  Tensor a = memory.uniform({rank, in}), b = memory.uniform({out, rank});
  Tensor dy = memory.uniform({kTokens, out});
  Tensor y = memory.uniform(dy.shape()), dx = memory.uniform(x.shape());
  Tensor da = memory.uniform(a.shape()), db = memory.uniform(b.shape());

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
    const LowRankLinear layers[] = {
        {&weight, in_slice(a), b.rows(slice.row_begin, slice.row_end), 0.5f}};
    const Tensor downs[] = {memory.poisoned({kTokens, rank})};
    const Tensor ddowns[] = {memory.poisoned({kTokens, rank})};
    const Tensor ys[] = {out_slice(y)}, dys[] = {out_slice(dy)};
    const Tensor das[] = {in_slice(da)}, dbs[] = {db.rows(slice.row_begin, slice.row_end)};
    low_rank_linear(ys, downs, in_slice(x), layers, ys[0], stream);
    low_rank_linear_backward_input(in_slice(dx), ddowns, dys, layers, 1.0f, stream);
    low_rank_linear_backward_weight(das, dbs, ddowns, dys, downs, in_slice(x), layers, stream);
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
}

// How ranks share a layer whose columns are split; each adds to all of db and to its part of da.
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
