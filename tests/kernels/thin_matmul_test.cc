// SPDX-License-Identifier: Apache-2.0
// Products with one dimension of at most 16, as low-rank terms need them.
#include <gtest/gtest.h>
#include <omp.h>

#include <array>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/matmul.h"
#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_identical;
using testing::GuardedMemory;

// C (m, n) of inner dimension k; operands and C are columns of wider matrices.
struct Product {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  GuardedMemory memory = GuardedMemory();
  Tensor a = columns(transpose_a ? k : m, transpose_a ? m : k, 3);
  Tensor b = columns(transpose_b ? n : k, transpose_b ? k : n, 5);
  Tensor wide = memory.uniform({m, n + 7});
  Tensor c = wide.columns(4, 4 + n);
  Tensor before = memory.copy_of(wide);

  Tensor columns(int64_t rows, int64_t width, int64_t more) {
    return memory.uniform({rows, width + more}).columns(1, 1 + width);
  }
  MatmulParams params(float alpha, float beta) const {
    return {transpose_a, transpose_b, alpha, beta};
  }
  void run(float alpha, float beta) {
    Stream stream;
    matmul(c, a, b, params(alpha, beta), stream);
  }
  // All of `wide`, from its values at the beginning.
  std::vector<double> expected(float alpha, float beta) const {
    std::vector<double> out;
    const auto at = [](const Tensor& x, bool transposed, int64_t i, int64_t j) {
      return static_cast<double>(
          x.data<float>()[transposed ? j * x.row_stride() + i : i * x.row_stride() + j]);
    };
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n + 7; ++j) {
        const double old = at(before, false, i, j);
        double sum = 0.0;
        for (int64_t p = 0; p < k && j >= 4 && j < 4 + n; ++p) {
          sum += at(a, transpose_a, i, p) * at(b, transpose_b, p, j - 4);
        }
        out.push_back(j < 4 || j >= 4 + n ? old : alpha * sum + (beta == 0.0f ? 0.0 : beta * old));
      }
    }
    return out;
  }
};

// Of both sides of every limit: ranks, whole and partial tiles and blocks, too few tokens.
void for_each_product(const auto& body) {
  for (const int64_t rank : {1, 3, 4, 7, 8, 9, 16}) {
    for (const int64_t tokens : {127, 128, 131, 301}) {
      for (const int64_t width : {112, 128, 250, 528, 1040}) {
        if (tokens == 301 && width > 528) continue;
        body(Product{tokens, rank, width, false, true});
        body(Product{tokens, rank, width, false, false});
        body(Product{tokens, width, rank, false, true});
        body(Product{tokens, width, rank, false, false});
        body(Product{width, rank, tokens, true, false});
        body(Product{rank, width, tokens, true, false});
      }
    }
  }
}

TEST(ThinMatmul, AgreesWithADoubleReferenceAndWritesOnlyItsColumns) {
  int index = 0;
  for_each_product([&](Product product) {
    const int turn = index / 6 + index % 6;  // each of the six meets every beta
    ++index;
    const float beta = std::array{0.0f, 1.0f, -0.5f}[static_cast<size_t>(turn % 3)];
    product.run(0.75f, beta);
    const std::string what =
        fmt::format("{} x {} x {}, transposed {} {}, beta {}", product.m, product.n, product.k,
                    product.transpose_a, product.transpose_b, beta);
    SCOPED_TRACE(what);
    expect_close(product.wide, product.expected(0.75f, beta), 1e-4, 1e-5);
  });
}

TEST(ThinMatmul, WithBetaZeroDoesNotReadTheOutput) {
  for (const auto& [m, n, k] : {std::tuple{130, 8, 640}, {130, 640, 8}, {144, 8, 256}}) {
    GuardedMemory memory;
    Stream stream;
    const bool transposed = k == 256;
    const Tensor c = memory.poisoned({m, n});
    const Tensor a = memory.uniform(transposed ? Shape{k, m} : Shape{m, k});
    matmul(c, a, memory.uniform({k, n}), {.transpose_a = transposed}, stream);
    for (const float value : GuardedMemory::elements(c)) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST(ThinMatmul, DoesNotDependOnTheThreadCount) {
  const int before = omp_get_max_threads();
  for (const auto& [m, n, k, transpose_a] :
       {std::tuple{301, 8, 528, false}, {301, 528, 8, false}, {528, 8, 301, true}}) {
    omp_set_num_threads(1);
    Product one{m, n, k, transpose_a, false};
    one.run(1.0f, 1.0f);
    omp_set_num_threads(3);
    Product three{m, n, k, transpose_a, false};
    three.run(1.0f, 1.0f);
    expect_identical(three.wide, one.wide);
  }
  omp_set_num_threads(before);
}

}  // namespace
}  // namespace rankwise
