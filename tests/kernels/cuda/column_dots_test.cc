// SPDX-License-Identifier: Apache-2.0
#include "kernels/column_dots.h"

#include <gtest/gtest.h>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::expect_identical;
using testing::expect_near;
using testing::kActivationTypes;

// The same inputs, rounded to `dtype`, on both devices.
struct Call : testing::Backends {
  Call(const Shape& shape, DType dtype, int64_t extra)
      : dy(pair(memory.normal(shape), dtype, extra)),
        y(pair(memory.normal(shape), dtype, 2 * extra)),
        minus(pair(memory.normal(shape, 4.0f), dtype, extra)),
        bias(pair(memory.normal({shape.dim(1)}, 4.0f), DType::kF32)),
        before(memory.normal({shape.dim(1)})),
        m(memory.uniform({shape.dim(1)}, 0.5f, 2.0f)) {
    m.data<float>()[0] = 0.0f;
  }

  void expect_same(bool biased, bool less) {
    const Shape width{dy.host.dim(1)};
    const ColumnDots host{memory.poisoned(width), biased ? bias.host : Tensor{}};
    column_dots(host, dy.host, y.host, less ? minus.host : Tensor{}, cpu);
    Tensor results[2];
    for (Tensor& result : results) {
      const ColumnDots to{device.poisoned(DType::kF32, width), biased ? bias.gpu : Tensor{}};
      column_dots(to, dy.gpu, y.gpu, less ? minus.gpu : Tensor{}, gpu);
      result = device.to_host(to.dots, memory);
    }
    expect_near(results[0], host.dots, 1e-5);
    expect_identical(results[1], results[0]);
    // Divided by m, and added to what is there.
    const Tensor expected = memory.copy_of(before), added = device.copy_of(before);
    column_dots({expected, host.bias, m}, dy.host, y.host, less ? minus.host : Tensor{}, cpu);
    column_dots({added, biased ? bias.gpu : Tensor{}, device.copy_of(m)}, dy.gpu, y.gpu,
                less ? minus.gpu : Tensor{}, gpu);
    expect_near(device.to_host(added, memory), expected, 1e-5);
  }

  Pair dy, y, minus, bias;
  Tensor before, m;
};

TEST(ColumnDotsCuda, AgreeWithTheCpuAndRepeat) {
  RW_REQUIRE_GPU();
  for (const Shape& shape : {Shape{1, 1}, Shape{7, 43}, Shape{130, 172}, Shape{33, 264},
                             Shape{300, 1000}, Shape{4099, 8}}) {
    for (const DType dtype : kActivationTypes) {
      for (const int64_t extra : {0, 8, 3}) {
        SCOPED_TRACE(::testing::Message()
                     << to_string(shape) << " " << name_of(dtype) << " extra " << extra);
        Call call(shape, dtype, extra);
        for (const bool biased : {false, true}) {
          for (const bool less : {false, true}) call.expect_same(biased, less);
        }
      }
    }
  }
}

TEST(ColumnDotsCuda, OfNoRowsAreZero) {
  RW_REQUIRE_GPU();
  testing::Backends b;
  const Tensor dots = b.device.poisoned(DType::kF32, {43});
  const Tensor none = b.device.poisoned(DType::kBF16, {0, 43});
  column_dots({dots}, none, none, {}, b.gpu);
  expect_identical(b.device.to_host(dots, b.memory), b.memory.zeros({43}));
}

TEST(ColumnDotsCuda, MeasuringNotesTheScratchOfARealRun) {
  RW_REQUIRE_GPU();
  const auto run = [](Stream& stream, Arena& arena) {
    const Tensor x = arena.allocate("test", DType::kBF16, {700, 72});
    column_dots({arena.allocate("test", DType::kF32, {72})}, x, x, {}, stream);
    stream.synchronize();
    return stream.scratch_peak_bytes();
  };
  Stream gpu(testing::kGpu);
  Arena arena(testing::kGpu);
  Stream measuring(testing::kGpu, Stream::Mode::kMeasure);
  Arena measured(testing::kGpu, Arena::Mode::kMeasure);
  const size_t expected = run(gpu, arena);
  EXPECT_GT(expected, 0u);
  EXPECT_EQ(run(measuring, measured), expected);
}

}  // namespace
}  // namespace rankwise
