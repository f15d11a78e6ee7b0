// SPDX-License-Identifier: Apache-2.0
// Element-wise operations on a GPU against the CPU on the same rounded inputs: one operation in
// fp32 and one rounding, so results are equal bit by bit; sums differ in their order.
#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <array>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::expect_identical;
using testing::expect_near;
using testing::kActivationTypes;
using testing::kGpu;
using testing::rounded;

const Shape kShapes[] = {{1, 1}, {1, 172}, {3, 5}, {7, 172}, {65, 24}, {130, 1023}, {33, 4096}};

struct Bench : testing::Backends {
  void expect_equal(const Tensor& actual, const Tensor& expected) {
    expect_identical(device.to_host(actual, memory), rounded(expected, actual.dtype()));
  }
};

// Calls f(shape, y type, x type, extra columns) for all of them.
template <class F>
void for_each_case(F&& f) {
  for (const Shape& shape : kShapes) {
    for (const DType y : kActivationTypes) {
      for (const DType x : kActivationTypes) {
        for (const int64_t extra : {0, 3, 8}) {
          SCOPED_TRACE(
              fmt::format("{} {} {} + {}", to_string(shape), name_of(y), name_of(x), extra));
          f(shape, y, x, extra);
        }
      }
    }
  }
}

TEST(CudaElementwise, AddTakesAnyTypesAndStrides) {
  RW_REQUIRE_GPU();
  for_each_case([](const Shape& shape, DType y_type, DType x_type, int64_t extra) {
    Bench bench;
    const Tensor y = rounded(bench.memory.normal(shape), y_type);
    const Tensor x = rounded(bench.memory.normal(shape), x_type);
    const Tensor out = bench.device.copy_of(y, y_type, extra);
    add(out, bench.device.copy_of(x, x_type, extra == 3 ? 0 : extra), bench.gpu);
    add(y, x, bench.cpu);
    bench.expect_equal(out, y);
  });
}

TEST(CudaElementwise, CopyKeepsBitsOfAnyType) {
  RW_REQUIRE_GPU();
  for_each_case([](const Shape& shape, DType type, DType, int64_t extra) {
    Bench bench;
    const Tensor x = bench.memory.normal(shape);
    const Tensor out = bench.device.poisoned(type, shape, extra);
    copy(out, bench.device.copy_of(x, type, 8 - extra), bench.gpu);
    bench.expect_equal(out, x);
  });
  Bench bench;
  const Tensor ids = bench.memory.of<int32_t>({5}, {0, 1, -1, 1 << 30, 42});
  const Tensor out = bench.device.poisoned(DType::kI32, {5});
  copy(out, bench.device.copy_of(ids), bench.gpu);
  expect_identical(bench.device.to_host(out, bench.memory), ids);
}

TEST(CudaElementwise, CastRoundsToNearestEvenAndWidens) {
  RW_REQUIRE_GPU();
  for (const int64_t size : {1, 7, 40001}) {
    for (const DType from : kActivationTypes) {
      for (const DType to : kActivationTypes) {
        Bench bench;
        const Tensor x = rounded(bench.memory.normal({size}), from);
        x.data<float>()[0] = from == DType::kF32 ? 1.0f + 0x1p-8f : 1.0f;  // a tie
        const Tensor out = bench.device.poisoned(to, {size});
        cast(out, bench.device.copy_of(x, from), bench.gpu);
        bench.expect_equal(out, x);
      }
    }
  }
}

TEST(CudaElementwise, FillAndScale) {
  RW_REQUIRE_GPU();
  for (const int64_t size : {1, 3, 65, 40001}) {
    Bench bench;
    const Tensor x = bench.memory.normal({size});
    const Tensor out = bench.device.copy_of(x);
    scale(out, -0.3f, bench.gpu);
    scale(x, -0.3f, bench.cpu);
    bench.expect_equal(out, x);
    fill(out, 2.5f, bench.gpu);
    fill(x, 2.5f, bench.cpu);
    bench.expect_equal(out, x);
    const Tensor ids = bench.device.poisoned(DType::kI32, {size});
    fill(ids, 0.0f, bench.gpu);
    expect_identical(bench.device.to_host(ids, bench.memory),
                     bench.memory.zeros(DType::kI32, {size}));
  }
}

TEST(CudaElementwise, BiasIsAddedToEveryRow) {
  RW_REQUIRE_GPU();
  for_each_case([](const Shape& shape, DType type, DType, int64_t extra) {
    Bench bench;
    const Tensor y = rounded(bench.memory.normal(shape), type);
    const Tensor bias = bench.memory.normal({shape.dim(1)});
    const Tensor out = bench.device.copy_of(y, type, extra);
    add_bias(out, bench.device.copy_of(bias), bench.gpu);
    add_bias(y, bias, bench.cpu);
    bench.expect_equal(out, y);
  });
}

TEST(CudaElementwise, BiasBackwardAddsTheColumnSumsAndRepeats) {
  RW_REQUIRE_GPU();
  for_each_case([](const Shape& shape, DType type, DType, int64_t extra) {
    Bench bench;
    const Tensor dy = rounded(bench.memory.normal(shape), type);
    const Tensor expected = bench.memory.normal({shape.dim(1)});
    const Tensor first = bench.device.copy_of(expected);
    const Tensor second = bench.device.copy_of(expected);
    const Tensor on_gpu = bench.device.copy_of(dy, type, extra);
    bias_backward(first, on_gpu, bench.gpu);
    bias_backward(second, on_gpu, bench.gpu);
    bias_backward(expected, dy, bench.cpu);
    const Tensor result = bench.device.to_host(first, bench.memory);
    expect_near(result, expected, 1e-5);
    expect_identical(bench.device.to_host(second, bench.memory), result);
  });
}

TEST(CudaElementwise, BiasBackwardOfManyRows) {
  RW_REQUIRE_GPU();
  Bench bench;
  const Tensor dy = rounded(bench.memory.uniform({8209, 264}, 0.0f, 1.0f), DType::kBF16);
  const Tensor expected = bench.memory.zeros({264});
  const Tensor out = bench.device.copy_of(expected);
  bias_backward(out, bench.device.copy_of(dy, DType::kBF16), bench.gpu);
  bias_backward(expected, dy, bench.cpu);
  expect_near(bench.device.to_host(out, bench.memory), expected, 1e-5);
}

TEST(CudaElementwise, SumOfSquaresOverAListRepeats) {
  RW_REQUIRE_GPU();
  Bench bench;
  std::vector<Tensor> on_cpu;
  std::vector<Tensor> on_gpu;
  for (int i = 0; i < 300; ++i) {  // more than one launch takes
    const int64_t size = std::array{1, 3, 0, 1000, 16384, 16385, 40001}[i % 7];
    const Tensor x = bench.memory.normal({size});
    const Tensor copied = bench.device.copy_of(x);
    const int64_t begin = std::min<int64_t>(i % 2, size);  // half of the addresses are misaligned
    on_cpu.push_back(x.rows(begin, size));
    on_gpu.push_back(copied.rows(begin, size));
  }
  const Tensor expected = bench.memory.of<double>({1}, {0.5});
  const Tensor first = bench.device.copy_of(expected);
  const Tensor second = bench.device.copy_of(expected);
  sum_of_squares(first, on_gpu, bench.gpu);
  sum_of_squares(second, on_gpu, bench.gpu);
  sum_of_squares(expected, on_cpu, bench.cpu);
  const Tensor result = bench.device.to_host(first, bench.memory);
  EXPECT_NEAR(result.data<double>()[0] / expected.data<double>()[0], 1.0, 1e-12);
  expect_identical(bench.device.to_host(second, bench.memory), result);
  sum_of_squares(second, {}, bench.gpu);
  expect_identical(bench.device.to_host(second, bench.memory), result);
}

TEST(CudaElementwise, MeasuringNotesTheScratchOfARealRun) {
  RW_REQUIRE_GPU();
  const auto run = [](Stream& stream, Arena& arena) {
    const Tensor x = arena.allocate("test", DType::kF32, {700, 65});
    sum_of_squares(arena.allocate("test", DType::kF64, {1}), std::array{x}, stream);
    bias_backward(arena.allocate("test", DType::kF32, {65}), x, stream);
    stream.synchronize();
    return stream.scratch_peak_bytes();
  };
  Stream gpu(kGpu);
  Arena arena(kGpu);
  Stream measuring(kGpu, Stream::Mode::kMeasure);
  Arena measured(kGpu, Arena::Mode::kMeasure);
  EXPECT_EQ(run(measuring, measured), run(gpu, arena));
}

TEST(CudaDropout, HasTheMaskOfTheCpu) {
  RW_REQUIRE_GPU();
  for_each_case([](const Shape& shape, DType y_type, DType x_type, int64_t extra) {
    for (const uint64_t first : {0ull, 4294967290ull}) {  // the second: misaligned, and overflows
      Bench bench;
      const Rng rng(9, "mask", (1ull << 40) + 4);
      const Tensor x = rounded(bench.memory.normal(shape), x_type);
      const Tensor out = bench.device.poisoned(y_type, shape, extra);
      const MaskPlace place{first, shape.dim(1)};
      dropout(out, bench.device.copy_of(x, x_type, 8 - extra), 0.3f, rng, place, bench.gpu);
      const Tensor expected = bench.memory.poisoned(shape);
      dropout(expected, x, 0.3f, rng, place, bench.cpu);
      bench.expect_equal(out, expected);
    }
  });
}

// Slices, contiguous or not, of wider activations, beginning anywhere in a block of random words.
TEST(CudaDropout, HasTheMaskOfTheCpuOnSlices) {
  RW_REQUIRE_GPU();
  for_each_case([](const Shape& shape, DType y_type, DType x_type, int64_t extra) {
    for (const int64_t more : {1, 4, 10}) {
      const MaskPlace place{4294967290ull + static_cast<uint64_t>(more), shape.dim(1) + more};
      Bench bench;
      const Rng rng(9, "slices");
      const Tensor x = rounded(bench.memory.normal(shape), x_type);
      const Tensor out = bench.device.poisoned(y_type, shape, extra);
      dropout(out, bench.device.copy_of(x, x_type, extra), 0.3f, rng, place, bench.gpu);
      const Tensor expected = bench.memory.poisoned(shape);
      dropout(expected, x, 0.3f, rng, place, bench.cpu);
      bench.expect_equal(out, expected);
    }
  });
}

TEST(CudaDropout, WorksInPlace) {
  RW_REQUIRE_GPU();
  Bench bench;
  for (const int64_t width : {172, 344}) {
    const Tensor x = bench.memory.normal({65, 172});
    const Tensor out = bench.device.copy_of(x);
    dropout(out, out, 0.5f, Rng(1, "p"), {4, width}, bench.gpu);
    dropout(x, x, 0.5f, Rng(1, "p"), {4, width}, bench.cpu);
    bench.expect_equal(out, x);
  }
}

TEST(CudaRandomFills, FollowTheStreamOfRandomNumbers) {
  RW_REQUIRE_GPU();
  const Rng rng(7, "fill", 3);
  for (const int64_t size : {1, 7, 255, 256, 1000, 40001}) {
    Bench bench;
    const Tensor bytes = bench.device.poisoned(DType::kU8, {size});
    fill_random_bytes(bytes, rng, bench.gpu);
    const Tensor expected_bytes = bench.memory.poisoned(DType::kU8, {size});
    fill_random_bytes(expected_bytes, rng, bench.cpu);
    expect_identical(bench.device.to_host(bytes, bench.memory), expected_bytes);
    const Tensor expected = bench.memory.poisoned({size});
    fill_normal(expected, 0.5f, 2.0f, rng, bench.cpu);
    for (const DType dtype : kActivationTypes) {
      const Tensor out = bench.device.poisoned(dtype, {size});
      fill_normal(out, 0.5f, 2.0f, rng, bench.gpu);
      const double tolerance = dtype == DType::kF32 ? 1e-6 : 4e-3;
      expect_near(bench.device.to_host(out, bench.memory), expected, tolerance);
    }
  }
}

}  // namespace
}  // namespace rankwise
