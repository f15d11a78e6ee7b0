// SPDX-License-Identifier: Apache-2.0
// Low-rank linear layers whose rows have factors (c) against the formulas in double.
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <vector>

#include "kernels/low_rank_linear.h"
#include "tests/kernels/nf4_slices.h"
#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_gradient;
using testing::GuardedMemory;
using testing::weighted_sum;
using Doubles = std::vector<double>;

enum class Storage { kNone, kDense, kNf4 };
constexpr Storage kStorages[] = {Storage::kNone, Storage::kDense, Storage::kNf4};

struct LayerSpec {
  int64_t out, rank;
  bool e, c;
};
// More rows than are expanded at a time first; one layer without a term, one without factors.
constexpr LayerSpec kSpecs[] = {
    {300, 4, false, true}, {20, 0, false, true}, {9, 2, true, false}, {43, 3, true, true}};

double at(const Tensor& x, int64_t row, int64_t column) {
  return x.data<float>()[row * x.row_stride() + column];
}

Doubles values_of(const Tensor& x) {
  Doubles values;
  for (int64_t row = 0; row < x.dim(0); ++row) {
    for (int64_t column = 0; column < x.dim(1); ++column) values.push_back(at(x, row, column));
  }
  return values;
}

// A group of layers; A and its gradient are columns of wider matrices where `around` is not 0.
struct Rig {
  Rig(Storage storage, int64_t columns, int64_t rows, int64_t around = 0)
      : in(columns), tokens(rows) {
    for (const LayerSpec& spec : kSpecs) {
      if (storage == Storage::kNone && spec.rank == 0) continue;
      add_layer(spec, storage, around);
    }
  }

  void forward() { low_rank_linear(ys, downs, x, layers, {}, stream); }
  void backward() {
    low_rank_linear_backward_input(dx, ddowns, dys, layers, 0.0f, stream);
    low_rank_linear_backward_weight(gradients, ddowns, dys, downs, x, layers, stream);
  }

  GuardedMemory memory;
  Arena arena;
  Stream stream;
  int64_t in, tokens;
  std::deque<Weight> weights;
  std::vector<Tensor> dense;  // what the weights stand for; zeros where there is none
  std::vector<LowRankLinear> layers;
  Tensor x = memory.uniform({tokens, in}), dx = memory.poisoned({tokens, in});
  std::vector<Tensor> ys, downs, dys, ddowns;
  std::vector<LowRankGradients> gradients;

 private:
  void add_layer(const LayerSpec& spec, Storage storage, int64_t around) {
    LowRankLinear layer;
    const bool weighted = storage != Storage::kNone;
    dense.push_back(weighted ? memory.normal({spec.out, in}) : memory.zeros({spec.out, in}));
    if (storage == Storage::kNf4) {
      QuantizedTensor q =
          allocate_nf4(MatrixSlice::all(dense.back().shape()), true, DType::kF32, arena, "weights");
      quantize_nf4(q, dense.back(), stream);
      dequantize(dense.back(), q, stream);
      weights.emplace_back(q);
    } else {
      weights.emplace_back(dense.back());
    }
    if (weighted) layer.weight = &weights.back();
    LowRankGradients gradient;
    if (spec.rank > 0) {
      const Shape wide = {spec.rank, in + 2 * around};
      layer.a = memory.uniform(wide).columns(around, around + in);
      layer.b = memory.uniform({spec.out, spec.rank});
      layer.scale = 0.5f;
      gradient.da = memory.zeros(wide).columns(around, around + in);
      gradient.db = memory.zeros(layer.b.shape());
    }
    if (spec.e) {
      layer.e = memory.uniform({spec.rank});
      gradient.de = memory.zeros({spec.rank});
    }
    if (spec.c) layer.c = memory.uniform({spec.out}, 0.3f, 3.0f);
    layers.push_back(layer);
    gradients.push_back(gradient);
    ys.push_back(memory.poisoned({tokens, spec.out}));
    dys.push_back(memory.uniform({tokens, spec.out}));
    for (auto* list : {&downs, &ddowns}) {
      list->push_back(spec.rank > 0 ? memory.poisoned({tokens, spec.rank}) : Tensor());
    }
  }
};

double factor_of(const LowRankLinear& layer, int64_t row) {
  return layer.c.defined() ? layer.c.data<float>()[row] : 1.0;
}
double singular_value(const LowRankLinear& layer, int64_t r) {
  return layer.e.defined() ? layer.e.data<float>()[r] : 1.0;
}

// y = x V^T and dx += dy V with V = diag(c) (W + s B diag(e) A).
Doubles reference(const Tensor& x, const Tensor& dy, const LowRankLinear& layer,
                  const Tensor& dense, Doubles& dx) {
  const int64_t in = dense.dim(1), out = dense.dim(0), tokens = x.dim(0);
  Doubles y(static_cast<size_t>(tokens * out));
  Doubles v(static_cast<size_t>(in));
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t i = 0; i < in; ++i) {
      double sum = at(dense, o, i);
      for (int64_t r = 0; r < layer.rank(); ++r) {
        sum += layer.scale * at(layer.b, o, r) * singular_value(layer, r) * at(layer.a, r, i);
      }
      v[static_cast<size_t>(i)] = factor_of(layer, o) * sum;
    }
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < in; ++i) {
        y[static_cast<size_t>(t * out + o)] += at(x, t, i) * v[static_cast<size_t>(i)];
        dx[static_cast<size_t>(t * in + i)] += at(dy, t, o) * v[static_cast<size_t>(i)];
      }
    }
  }
  return y;
}

// With D = diag(c) dy^T x, the gradient of W + s B diag(e) A:
//   dB = s D A^T diag(e), dA = s diag(e) B^T D, de[r] = s sum over B[:, r] (D A^T)[:, r].
struct TermGradients {
  TermGradients(const Tensor& x, const Tensor& dy, const LowRankLinear& layer)
      : da(static_cast<size_t>(layer.a.numel())),
        db(static_cast<size_t>(layer.b.numel())),
        de(static_cast<size_t>(layer.rank())) {
    const int64_t in = layer.in(), rank = layer.rank();
    for (int64_t o = 0; o < layer.out(); ++o) {
      for (int64_t i = 0; i < in; ++i) {
        double d = 0.0;
        for (int64_t t = 0; t < x.dim(0); ++t) d += at(dy, t, o) * at(x, t, i);
        d *= layer.scale * factor_of(layer, o);
        for (int64_t r = 0; r < rank; ++r) {
          const double a = at(layer.a, r, i), b = at(layer.b, o, r), e = singular_value(layer, r);
          da[static_cast<size_t>(r * in + i)] += d * b * e;
          db[static_cast<size_t>(o * rank + r)] += d * a * e;
          de[static_cast<size_t>(r)] += d * a * b;
        }
      }
    }
  }
  Doubles da, db, de;
};

TEST(RowFactors, GroupsAgreeWithTheFormulas) {
  for (const Storage storage : kStorages) {
    for (const auto& [in, tokens] : {std::pair<int64_t, int64_t>{11, 6}, {172, 5}, {64, 130}}) {
      SCOPED_TRACE(fmt::format("storage {} in {}", static_cast<int>(storage), in));
      Rig rig(storage, in, tokens, 3);
      rig.forward();
      rig.backward();
      Doubles dx(static_cast<size_t>(rig.dx.numel()));
      for (size_t i = 0; i < rig.layers.size(); ++i) {
        const LowRankLinear& layer = rig.layers[i];
        expect_close(rig.ys[i], reference(rig.x, rig.dys[i], layer, rig.dense[i], dx), 1e-4, 1e-5);
        if (layer.rank() == 0) continue;
        const TermGradients expected(rig.x, rig.dys[i], layer);
        const Tensor da = rig.memory.poisoned(layer.a.shape());
        const Doubles values = values_of(rig.gradients[i].da);
        std::copy(values.begin(), values.end(), da.data<float>());
        expect_close(da, expected.da, 2e-4, 1e-5);
        expect_close(rig.gradients[i].db, expected.db, 2e-4, 1e-5);
        if (layer.e.defined()) expect_close(rig.gradients[i].de, expected.de, 2e-3, 1e-5);
      }
      expect_close(rig.dx, dx, 2e-4, 1e-5);
    }
  }
}

TEST(RowFactors, GradientsMatchFiniteDifferences) {
  for (const Storage storage : kStorages) {
    Rig rig(storage, 11, 6);
    rig.forward();
    rig.backward();
    const auto loss = [&] {
      rig.forward();
      double sum = 0.0;
      for (size_t i = 0; i < rig.ys.size(); ++i) sum += weighted_sum(rig.ys[i], rig.dys[i]);
      return sum;
    };
    expect_gradient(rig.x, rig.dx, loss);
    for (size_t i = 0; i < rig.layers.size(); ++i) {
      if (rig.layers[i].rank() == 0) continue;
      expect_gradient(rig.layers[i].a, rig.gradients[i].da, loss);
      expect_gradient(rig.layers[i].b, rig.gradients[i].db, loss);
      if (rig.layers[i].e.defined()) expect_gradient(rig.layers[i].e, rig.gradients[i].de, loss);
    }
  }
}

TEST(RowFactors, AnAddendHasNone) {
  for (const Storage storage : kStorages) {
    Rig rig(storage, 43, 6);
    const Tensor& y = rig.ys[0];
    const Tensor addend = rig.memory.uniform(y.shape());
    low_rank_linear({&y, 1}, {rig.downs.data(), 1}, rig.x, {rig.layers.data(), 1}, addend,
                    rig.stream);
    Doubles dx(static_cast<size_t>(rig.dx.numel()));
    Doubles expected = reference(rig.x, rig.dys[0], rig.layers[0], rig.dense[0], dx);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += addend.data<float>()[i];
    expect_close(y, expected, 1e-4, 1e-5);
  }
}

// Slices begin anywhere in a block and a row; the factors of a slice are those of its own rows.
TEST(RowFactors, SlicesOfNf4WeightsAgreeWithTheirDecodedValues) {
  for (const Shape& shape : {Shape{64, 172}, Shape{43, 43}, Shape{8, 24}}) {
    for (const bool double_quant : {false, true}) {
      testing::WholeNf4 whole(shape, double_quant);
      for (const MatrixSlice& slice : testing::slices_of(shape)) {
        SCOPED_TRACE(testing::description_of(slice) + (double_quant ? " double" : " single"));
        const QuantizedTensor part = whole.slice(slice);
        const Weight weight = part;
        LowRankLinear layer;
        layer.weight = &weight;
        layer.c = whole.memory.uniform({layer.out()}, 0.3f, 3.0f);
        const Tensor x = whole.memory.uniform({6, layer.in()});
        const Tensor y = whole.memory.poisoned({6, layer.out()});
        const Tensor dy = whole.memory.uniform(y.shape()), dx = whole.memory.poisoned(x.shape());
        const Tensor none;
        low_rank_linear({&y, 1}, {&none, 1}, x, {&layer, 1}, {}, whole.cpu);
        low_rank_linear_backward_input(dx, {&none, 1}, {&dy, 1}, {&layer, 1}, 0.0f, whole.cpu);
        Doubles expected_dx(static_cast<size_t>(dx.numel()));
        expect_close(y, reference(x, dy, layer, whole.decoded(part), expected_dx), 1e-5, 1e-5);
        expect_close(dx, expected_dx, 1e-5, 1e-5);
      }
    }
  }
}

// Computed by hand: c = m / n with m = (5, 1) and n the norms of the rows of [[4, 5], [3, 2]].
TEST(RowFactors, WorkedExample) {
  GuardedMemory memory;
  Stream stream;
  const Weight weight = memory.of<float>({2, 2}, {3, 4, 1, 0});
  LowRankLinear layer = {&weight, memory.of<float>({1, 2}, {1, 1}),
                         memory.of<float>({2, 1}, {0.5f, 1}), 2.0f};
  layer.c = memory.of<float>({2}, {5.0f / std::sqrt(41.0f), 1.0f / std::sqrt(13.0f)});
  const Tensor x = memory.of<float>({1, 2}, {1, 2}), dy = memory.of<float>({1, 2}, {1, 1});
  const Tensor y = memory.poisoned({1, 2});
  const Tensor down = memory.poisoned({1, 1}), ddown = memory.poisoned({1, 1});
  const LowRankGradients gradients = {memory.zeros({1, 2}), memory.zeros({2, 1}), {}};
  low_rank_linear({&y, 1}, {&down, 1}, x, {&layer, 1}, {}, stream);
  low_rank_linear_backward_input({}, {&ddown, 1}, {&dy, 1}, {&layer, 1}, 0.0f, stream);
  low_rank_linear_backward_weight({&gradients, 1}, {&ddown, 1}, {&dy, 1}, {&down, 1}, x,
                                  {&layer, 1}, stream);
  expect_close(y, Doubles{10.932163, 1.941451}, 2e-6, 0.0);
  expect_close(gradients.db, Doubles{4.685213, 1.664101}, 2e-6, 0.0);
  expect_close(gradients.da, Doubles{1.335569, 2.671138}, 2e-6, 0.0);
}

TEST(RowFactorsDeathTest, OfAWrongSizeOrWhereNoneMayBe) {
  Rig rig(Storage::kDense, 11, 6);
  EXPECT_DEATH(add_low_rank_product(rig.dense[0], rig.layers[0], rig.stream), "a layer with c");
  rig.layers[1].c = rig.layers[0].c;
  EXPECT_DEATH(rig.forward(), "low_rank_linear: c has shape");
}

}  // namespace
}  // namespace rankwise
