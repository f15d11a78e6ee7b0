// SPDX-License-Identifier: Apache-2.0
#include "kernels/column_dots.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <vector>

#include "tests/support/kernel_harness.h"

namespace rankwise {
namespace {

using testing::expect_close;
using testing::expect_identical;
using testing::GuardedMemory;

struct Case {
  Case(const Shape& shape, bool biased, bool less)
      : dy(memory.normal(shape)), y(memory.normal(shape)), to{memory.poisoned({shape.dim(1)})} {
    if (biased) to.bias = memory.normal({shape.dim(1)}, 10.0f);
    if (less) minus = memory.normal(shape, 10.0f);
  }
  std::vector<double> expected() const {
    const int64_t width = y.dim(1);
    std::vector<double> sums(static_cast<size_t>(width));
    for (int64_t i = 0; i < y.numel(); ++i) {
      double value = y.data<float>()[i];
      if (minus.defined()) value -= minus.data<float>()[i];
      if (to.bias.defined()) value -= to.bias.data<float>()[i % width];
      sums[static_cast<size_t>(i % width)] += dy.data<float>()[i] * value;
    }
    return sums;
  }
  GuardedMemory memory;
  Stream stream;
  Tensor dy, y, minus;
  ColumnDots to;
};

TEST(ColumnDots, AgreeWithDoublePrecisionReference) {
  for (const int64_t rows : {0, 1, 7, 130, 2100}) {
    for (const int64_t width : {1, 43, 172, 1030}) {
      for (const bool biased : {false, true}) {
        for (const bool less : {false, true}) {
          Case c({rows, width}, biased, less);
          column_dots(c.to, c.dy, c.y, c.minus, c.stream);
          expect_close(c.to.dots, c.expected(), 2e-3, 1e-5);
        }
      }
    }
  }
}

TEST(ColumnDots, DividedByMAreAddedToWhatIsThere) {
  Case c({130, 43}, true, false);
  const std::vector<double> sums = c.expected();
  c.to.m = c.memory.uniform({43}, 0.5f, 2.0f);
  c.to.m.data<float>()[7] = 0.0f;
  c.to.dots = c.memory.normal({43});
  const Tensor before = c.memory.copy_of(c.to.dots);
  column_dots(c.to, c.dy, c.y, c.minus, c.stream);
  for (size_t i = 0; i < 43; ++i) {
    const double m = c.to.m.data<float>()[i];
    const double added = m == 0.0 ? 0.0 : sums[i] / m;
    EXPECT_NEAR(c.to.dots.data<float>()[i], before.data<float>()[i] + added, 2e-3);
  }
}

TEST(ColumnDots, AreTheSameForAnyNumberOfThreads) {
  Case c({300, 1100}, true, true);
  const int threads = omp_get_max_threads();
  column_dots(c.to, c.dy, c.y, c.minus, c.stream);
  const Tensor expected = c.memory.copy_of(c.to.dots);
  for (const int count : {1, 2, 5}) {
    omp_set_num_threads(count);
    column_dots(c.to, c.dy, c.y, c.minus, c.stream);
    expect_identical(c.to.dots, expected);
  }
  omp_set_num_threads(threads);
}

TEST(ColumnDots, DoNothingWithoutATarget) {
  Stream stream;
  column_dots({}, {}, {}, {}, stream);
  EXPECT_EQ(stream.scratch_peak_bytes(), 0u);
}

TEST(ColumnDotsDeathTest, RefuseShapesThatDiffer) {
  Case c({2, 4}, true, true);
  const Tensor wide = c.memory.zeros({2, 5});
  EXPECT_DEATH(column_dots(c.to, c.dy, wide, {}, c.stream), "column_dots: y has shape");
  EXPECT_DEATH(column_dots(c.to, c.dy, c.y, wide, c.stream), "column_dots: minus has shape");
  EXPECT_DEATH(column_dots(c.to, wide, wide, {}, c.stream), "column_dots: dots has shape");
}

}  // namespace
}  // namespace rankwise
