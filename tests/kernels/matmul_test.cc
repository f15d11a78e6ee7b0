// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
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

double element(const Tensor& x, bool transposed, int64_t i, int64_t j) {
  return transposed ? x.data<float>()[j * x.row_stride() + i]
                    : x.data<float>()[i * x.row_stride() + j];
}

std::vector<double> reference_product(const Tensor& c, const Tensor& a, const Tensor& b,
                                      const MatmulParams& params) {
  const int64_t depth = a.dim(params.transpose_a ? 0 : 1);
  std::vector<double> out;
  for (int64_t i = 0; i < c.dim(0); ++i) {
    for (int64_t j = 0; j < c.dim(1); ++j) {
      double sum = 0.0;
      for (int64_t k = 0; k < depth; ++k) {
        sum += element(a, params.transpose_a, i, k) * element(b, params.transpose_b, k, j);
      }
      const double kept = params.beta == 0.0f ? 0.0 : params.beta * element(c, false, i, j);
      out.push_back(params.alpha * sum + kept);
    }
  }
  return out;
}

Tensor contiguous(GuardedMemory& memory, const Tensor& view) {
  Tensor out = memory.poisoned(view.shape());
  for (int64_t i = 0; i < view.dim(0); ++i) {
    std::memcpy(out.data<float>() + i * view.dim(1), view.data<float>() + i * view.row_stride(),
                static_cast<size_t>(view.dim(1)) * sizeof(float));
  }
  return out;
}

Tensor nf4_decoded(GuardedMemory& memory, const QuantizedTensor& q) {
  Stream stream;
  Tensor w = memory.poisoned(q.shape);
  dequantize(w, q, stream);
  return w;
}

QuantizedTensor nf4_weight(GuardedMemory& memory, Arena& arena, const Shape& shape) {
  Stream stream;
  QuantizedTensor q = allocate_nf4(MatrixSlice::all(shape), true, DType::kF32, arena, "weights");
  quantize_nf4(q, memory.normal(shape, 0.1f), stream);
  return q;
}

struct Sizes {
  int64_t m, n, k;
};

TEST(Matmul, AgreesWithADoubleReferenceForAllTransposes) {
  const Sizes sizes[] = {{1, 1, 1},    {1, 17, 33},   {33, 1, 16}, {5, 7, 3},
                         {48, 16, 64}, {65, 33, 129}, {16, 64, 8}, {3, 130, 1}};
  for (const auto& [m, n, k] : sizes) {
    for (int transposes = 0; transposes < 4; ++transposes) {
      GuardedMemory memory;
      Stream stream;
      MatmulParams params = {.transpose_a = (transposes & 1) != 0,
                             .transpose_b = (transposes & 2) != 0};
      const Tensor a = memory.uniform(params.transpose_a ? Shape{k, m} : Shape{m, k});
      const Tensor b = memory.uniform(params.transpose_b ? Shape{n, k} : Shape{k, n});
      const Tensor written = memory.poisoned({m, n});  // NaN: beta 0 must not read it
      matmul(written, a, b, params, stream);
      expect_close(written, reference_product(written, a, b, params), 1e-5, 1e-5);

      params.alpha = -0.75f;
      params.beta = 1.5f;
      const Tensor added = memory.uniform({m, n});
      const std::vector<double> expected = reference_product(added, a, b, params);
      matmul(added, a, b, params, stream);
      expect_close(added, expected, 1e-5, 1e-5);
    }
  }
}

TEST(Matmul, RowStridedViewsWriteOnlyTheirColumns) {
  const int64_t slices[][3] = {{64, 11, 32}, {172, 43, 86}, {172, 86, 172}, {4096, 2048, 4096}};
  for (const auto& [width, begin, end] : slices) {
    for (int i = 0; i < 8; ++i) {
      GuardedMemory memory;
      Stream stream;
      const MatmulParams params = {.transpose_a = (i & 1) != 0,
                                   .transpose_b = (i & 2) != 0,
                                   .beta = (i & 4) != 0 ? 1.0f : 0.0f};
      const int64_t m = 19, n = end - begin, k = 23;
      const Tensor a = memory.uniform({params.transpose_a ? k : m, 40})
                           .columns(5, 5 + (params.transpose_a ? m : k));
      const Tensor b = params.transpose_b ? memory.uniform({n, 50}).columns(9, 9 + k)
                                          : memory.uniform({k, width}).columns(begin, end);
      const Tensor wide = memory.uniform({m, width});
      const Tensor before = memory.copy_of(wide);
      const Tensor c = wide.columns(begin, end);
      const std::vector<double> expected = reference_product(c, a, b, params);
      matmul(c, a, b, params, stream);
      expect_close(contiguous(memory, c), expected, 1e-5, 1e-5);
      for (const auto& [from, to] : {std::pair{int64_t{0}, begin}, {end, width}}) {
        expect_identical(contiguous(memory, wide.columns(from, to)),
                         contiguous(memory, before.columns(from, to)));
      }
    }
  }
}

TEST(Matmul, EmptyDepthScalesOrClearsTheOutput) {
  GuardedMemory memory;
  Stream stream;
  const Tensor a = memory.zeros({3, 0});
  const Tensor b = memory.zeros({0, 2});
  const Tensor c = memory.of<float>({3, 2}, {1, 2, 3, 4, 5, 6});
  matmul(c, a, b, {.beta = 2.0f}, stream);
  expect_identical(c, memory.of<float>({3, 2}, {2, 4, 6, 8, 10, 12}));
  const Tensor cleared = memory.poisoned({3, 2});
  matmul(cleared, a, b, {}, stream);
  expect_identical(cleared, memory.zeros({3, 2}));
}

TEST(Matmul, EmptyOutputIsAllowed) {
  GuardedMemory memory;
  Stream stream;
  matmul(memory.zeros({0, 4}), memory.zeros({0, 3}), memory.zeros({3, 4}), {}, stream);
}

TEST(Linear, DenseProductsAgreeWithTheReference) {
  GuardedMemory memory;
  Stream stream;
  const Tensor x = memory.uniform({37, 24});
  const Tensor w = memory.uniform({40, 24});
  const Tensor y = memory.poisoned({37, 40});
  linear(y, x, w, 0.0f, stream);
  expect_close(y, reference_product(y, x, w, {.transpose_b = true}), 1e-5, 1e-5);

  const Tensor dx = memory.uniform({37, 24});
  const std::vector<double> expected_dx = reference_product(dx, y, w, {.beta = 1.0f});
  linear_backward_input(dx, y, w, 1.0f, stream);
  expect_close(dx, expected_dx, 1e-4, 1e-5);

  const Tensor dw = memory.uniform({40, 24});
  const MatmulParams weight_product = {.transpose_a = true, .beta = 1.0f};
  const std::vector<double> expected_dw = reference_product(dw, y, x, weight_product);
  linear_backward_weight(dw, y, x, stream);
  expect_close(dw, expected_dw, 1e-4, 1e-5);
}

TEST(Linear, GradientsMatchFiniteDifferences) {
  GuardedMemory memory;
  Stream stream;
  const Tensor x = memory.uniform({6, 11});
  const Tensor w = memory.uniform({9, 11});
  const Tensor y = memory.poisoned({6, 9});
  const Tensor dy = memory.uniform({6, 9});
  const auto scalar = [&] {
    linear(y, x, w, 0.0f, stream);
    return weighted_sum(y, dy);
  };
  const Tensor dx = memory.poisoned({6, 11});
  linear_backward_input(dx, dy, w, 0.0f, stream);
  expect_gradient(x, dx, scalar);
  const Tensor dw = memory.zeros({9, 11});
  linear_backward_weight(dw, dy, x, stream);
  expect_gradient(w, dw, scalar);
}

// Widths that straddle blocks and rows, and heights of one, several and partial tiles.
const Shape kQuantizedShapes[] = {{64, 64}, {5, 33}, {100, 72}, {1200, 128}, {150, 1100}, {1, 64}};

TEST(LinearNf4, ForwardEqualsTheProductWithTheDecodedWeight) {
  for (const Shape& shape : kQuantizedShapes) {
    for (const float beta : {0.0f, 1.0f}) {
      GuardedMemory memory;
      Arena arena;
      Stream stream;
      const QuantizedTensor q = nf4_weight(memory, arena, shape);
      const Tensor x = memory.uniform({7, shape.dim(1)});
      const Tensor start = memory.uniform({7, shape.dim(0)});
      const Tensor y = beta == 0.0f ? memory.poisoned(start.shape()) : memory.copy_of(start);
      const std::vector<double> expected =
          reference_product(start, x, nf4_decoded(memory, q), {.transpose_b = true, .beta = beta});
      linear(y, x, q, beta, stream);
      expect_close(y, expected, 2e-5, 1e-5);
    }
  }
}

TEST(LinearNf4, BackwardInputEqualsTheProductWithTheDecodedWeight) {
  for (const Shape& shape : kQuantizedShapes) {
    for (const float beta : {0.0f, 1.0f}) {
      GuardedMemory memory;
      Arena arena;
      Stream stream;
      const QuantizedTensor q = nf4_weight(memory, arena, shape);
      const Tensor dy = memory.uniform({7, shape.dim(0)});
      const Tensor start = memory.uniform({7, shape.dim(1)});
      const Tensor dx = beta == 0.0f ? memory.poisoned(start.shape()) : memory.copy_of(start);
      const std::vector<double> expected =
          reference_product(start, dy, nf4_decoded(memory, q), {.beta = beta});
      linear_backward_input(dx, dy, q, beta, stream);
      expect_close(dx, expected, 2e-5, 1e-5);
    }
  }
}

TEST(LinearNf4, GradientMatchesFiniteDifferences) {
  GuardedMemory memory;
  Arena arena;
  Stream stream;
  const QuantizedTensor q = nf4_weight(memory, arena, {20, 13});
  const Tensor x = memory.uniform({4, 13});
  const Tensor y = memory.poisoned({4, 20});
  const Tensor dy = memory.uniform({4, 20});
  const Tensor dx = memory.poisoned({4, 13});
  linear_backward_input(dx, dy, q, 0.0f, stream);
  expect_gradient(x, dx, [&] {
    linear(y, x, q, 0.0f, stream);
    return weighted_sum(y, dy);
  });
}

TEST(LinearNf4, StridedViewsAreAccepted) {
  GuardedMemory memory;
  Arena arena;
  Stream stream;
  const QuantizedTensor q = nf4_weight(memory, arena, {1100, 96});
  const Tensor x = memory.uniform({5, 200}).columns(50, 146);
  const Tensor y = memory.uniform({5, 1300}).columns(100, 1200);
  linear(y, x, q, 0.0f, stream);
  const Tensor plain = memory.poisoned({5, 1100});
  linear(plain, contiguous(memory, x), q, 0.0f, stream);
  for (int64_t i = 0; i < 5; ++i) {
    for (int64_t j = 0; j < 1100; ++j) {
      ASSERT_NEAR(element(plain, false, i, j), element(y, false, i, j), 1e-5);
    }
  }
}

TEST(LinearNf4, RepeatedCallsAreBitIdentical) {
  GuardedMemory memory;
  Arena arena;
  const QuantizedTensor q = nf4_weight(memory, arena, {700, 256});
  const Tensor x = memory.uniform({65, 256});
  const Tensor first = memory.poisoned({65, 700});
  const Tensor again = memory.poisoned({65, 700});
  Stream used;
  linear(first, x, q, 0.0f, used);
  used.scratch(1 << 24);  // another scratch address, other contents
  set_matmul_tuning(used, false);
  const Tensor other = memory.poisoned({3, 256});
  linear_backward_input(other, memory.uniform({3, 700}), q, 0.0f, used);
  linear(again, x, q, 0.0f, used);
  expect_identical(again, first);
}

TEST(Linear, MeasuringStreamChecksAndTouchesNothing) {
  Arena arena(Device{}, Arena::Mode::kMeasure);
  Stream stream(Device{}, Stream::Mode::kMeasure);
  const QuantizedTensor q =
      allocate_nf4(MatrixSlice::all({32, 64}), true, DType::kF32, arena, "weights");
  const Tensor x = arena.allocate("activations", DType::kF32, {8, 64});
  const Tensor y = arena.allocate("activations", DType::kF32, {8, 32});
  linear(y, x, q, 0.0f, stream);
  linear_backward_input(x, y, q, 1.0f, stream);
  EXPECT_DEATH(linear(x, y, q, 0.0f, stream), "linear: x has shape");
}

TEST(MatmulDeathTest, WrongShapesAndTypesAbortWithTheirNames) {
  GuardedMemory memory;
  Stream stream;
  const Tensor a = memory.zeros({3, 4});
  const Tensor b = memory.zeros({4, 5});
  EXPECT_DEATH(matmul(memory.zeros({3, 4}), a, b, {}, stream), "matmul: c has shape");
  EXPECT_DEATH(matmul(memory.zeros({3, 5}), a, memory.zeros({5, 4}), {}, stream),
               "matmul: b has shape");
  EXPECT_DEATH(matmul(memory.zeros({3, 5}), memory.zeros({12}), b, {}, stream),
               "matmul: a has shape .*rank 2");
  EXPECT_DEATH(matmul(memory.zeros(DType::kI32, {3, 5}), a, b, {}, stream), "matmul: c is I32");
}

TEST(Matmul, LibraryHasAName) { EXPECT_FALSE(std::string(cpu_matmul_library()).empty()); }

}  // namespace
}  // namespace rankwise
