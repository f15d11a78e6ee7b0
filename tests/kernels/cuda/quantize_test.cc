// SPDX-License-Identifier: Apache-2.0
// NF4 on a GPU gives the bits of the CPU.
#include "kernels/quantize.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cuda/dequantize.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::expect_identical;
using testing::kActivationTypes;
using testing::kGpu;
using testing::rounded;

// Poisoned tensors of the NF4 format; `poisoned` makes one of a type and shape.
template <class Poisoned>
QuantizedTensor empty_nf4(const Shape& shape, bool double_quant, int64_t block_size,
                          Poisoned&& poisoned) {
  QuantizedTensor q;
  q.shape = shape;
  q.block_size = block_size;
  q.codes = poisoned(DType::kU8, Shape{(shape.numel() + 1) / 2});
  q.absmax = poisoned(double_quant ? DType::kU8 : DType::kF32, Shape{q.blocks()});
  if (double_quant) {
    q.nested_absmax = poisoned(DType::kF32, Shape{(q.blocks() + 255) / 256});
    q.nested_map = poisoned(DType::kF32, Shape{256});
  }
  return q;
}

struct Bench : testing::Backends {
  QuantizedTensor quantized(const Tensor& w, bool double_quant, int64_t block_size = 64) {
    QuantizedTensor q = empty_nf4(w.shape(), double_quant, block_size, [&](auto type, auto shape) {
      return memory.poisoned(type, shape);
    });
    quantize_nf4(q, w, cpu);
    return q;
  }
  QuantizedTensor quantized_on_gpu(const Tensor& w, bool double_quant, int64_t block_size = 64) {
    QuantizedTensor q = empty_nf4(w.shape(), double_quant, block_size, [&](auto type, auto shape) {
      return device.poisoned(type, shape);
    });
    quantize_nf4(q, device.copy_of(w), gpu);
    return q;
  }
  QuantizedTensor on_gpu(QuantizedTensor q) {
    for (Tensor* part : {&q.codes, &q.absmax, &q.nested_absmax, &q.nested_map}) {
      if (part->defined()) *part = device.copy_of(*part);
    }
    return q;
  }
  // Rows decoded on the CPU, rounded as `dtype` is.
  Tensor decoded(const QuantizedTensor& q, DType dtype, int64_t begin, int64_t end) {
    const Tensor w = memory.poisoned({end - begin, q.shape.dim(1)});
    dequantize_rows(w, q, begin, end, cpu);
    return rounded(w, dtype);
  }
  void expect_equal(const QuantizedTensor& q, const QuantizedTensor& expected) {
    expect_identical(device.to_host(q.codes, memory), expected.codes);
    expect_identical(device.to_host(q.absmax, memory), expected.absmax);
    if (!q.nested()) return;
    EXPECT_EQ(q.nested_offset, expected.nested_offset);
    expect_identical(device.to_host(q.nested_absmax, memory), expected.nested_absmax);
    expect_identical(device.to_host(q.nested_map, memory), expected.nested_map);
  }
};

const Shape kShapes[] = {{1, 1},    {3, 5},    {1, 64},    {7, 24},  {172, 64},
                         {64, 172}, {29, 100}, {512, 192}, {3, 688}, {333, 77}};

TEST(CudaQuantizeNf4, GivesTheBitsOfTheCpu) {
  RW_REQUIRE_GPU();
  for (const Shape& shape : kShapes) {
    for (const bool double_quant : {false, true}) {
      SCOPED_TRACE(to_string(shape));
      Bench bench;
      const Tensor w = bench.memory.normal(shape, 0.05f);
      bench.expect_equal(bench.quantized_on_gpu(w, double_quant), bench.quantized(w, double_quant));
    }
  }
}

TEST(CudaQuantizeNf4, LargeMatrixGivesTheBitsOfTheCpuBothWays) {
  RW_REQUIRE_GPU();
  Bench bench;
  const Tensor w = bench.memory.normal({4096, 4096}, 0.02f);
  const QuantizedTensor expected = bench.quantized(w, true);
  const QuantizedTensor q = bench.quantized_on_gpu(w, true);
  bench.expect_equal(q, expected);
  const Tensor out = bench.device.poisoned(DType::kBF16, w.shape());
  dequantize(out, q, bench.gpu);
  expect_identical(bench.device.to_host(out, bench.memory),
                   bench.decoded(expected, DType::kBF16, 0, 4096));
}

TEST(CudaQuantizeNf4, EveryBlockSizeAndUnusualBlocks) {
  RW_REQUIRE_GPU();
  for (const int64_t block_size : {2, 32, 64, 96, 256, 4096}) {
    for (const bool double_quant : {false, true}) {
      Bench bench;
      const Tensor w = bench.memory.normal({21, 235});
      float* x = w.data<float>();
      std::fill(x + 100, x + 800, 0.0f);     // all-zero blocks
      std::fill(x + 900, x + 1100, 1e-44f);  // no finite reciprocal
      std::fill(x + 1200, x + 1500, 0.7f);   // equal values
      for (int i = 2000; i < 2256; ++i)
        x[i] = i % 16 == 15 ? 1.0f : nf4_thresholds()[i % 15];  // ties
      bench.expect_equal(bench.quantized_on_gpu(w, double_quant, block_size),
                         bench.quantized(w, double_quant, block_size));
    }
  }
}

TEST(CudaQuantizeNf4, NonFiniteInputGivesTheCodesOfTheCpu) {
  RW_REQUIRE_GPU();
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    Bench bench;
    const Tensor w = bench.memory.uniform({6, 64});
    w.data<float>()[70] = bad;
    bench.expect_equal(bench.quantized_on_gpu(w, false), bench.quantized(w, false));
  }
}

TEST(CudaQuantizeNf4, MeasuringNotesTheScratchOfARealRun) {
  RW_REQUIRE_GPU();
  Bench bench;
  const Tensor w = bench.memory.normal({300, 64});
  const QuantizedTensor real = bench.quantized_on_gpu(w, true);
  Stream measuring(kGpu, Stream::Mode::kMeasure);
  QuantizedTensor q = real;
  quantize_nf4(q, Tensor(nullptr, DType::kF32, w.shape(), kGpu), measuring);
  EXPECT_EQ(measuring.scratch_peak_bytes(), bench.gpu.scratch_peak_bytes());
}

TEST(CudaDequantize, GivesTheBitsOfTheCpuWhateverTheStride) {
  RW_REQUIRE_GPU();
  for (const Shape& shape : kShapes) {
    for (const bool double_quant : {false, true}) {
      Bench bench;
      const QuantizedTensor q = bench.quantized(bench.memory.normal(shape, 0.05f), double_quant);
      const QuantizedTensor on_gpu = bench.on_gpu(q);
      for (const DType dtype : kActivationTypes) {
        const Tensor expected = bench.decoded(q, dtype, 0, shape.dim(0));
        for (const int64_t extra : {0, 3, 16}) {
          SCOPED_TRACE(fmt::format("{} {} + {}", to_string(shape), name_of(dtype), extra));
          const Tensor w = bench.device.poisoned(dtype, shape, extra);
          dequantize(w, on_gpu, bench.gpu);
          expect_identical(bench.device.to_host(w, bench.memory), expected);
        }
      }
    }
  }
}

TEST(CudaDequantize, AnyRowsAtAnyAddress) {
  RW_REQUIRE_GPU();
  for (const int64_t in : {64, 100, 33, 7, 192, 24}) {
    Bench bench;
    const QuantizedTensor q = bench.quantized(bench.memory.normal({29, in}), true);
    const QuantizedTensor on_gpu = bench.on_gpu(q);
    for (const auto& [begin, end] : {std::pair{0, 1}, {3, 11}, {28, 29}, {5, 5}, {1, 29}}) {
      for (const int64_t skipped : {0, 1}) {  // columns ahead of the output: a misaligned address
        const Tensor wide = bench.device.poisoned(DType::kBF16, {end - begin, in + 8});
        const Tensor w = wide.columns(skipped, in + skipped);
        dequantize_rows(w, on_gpu, begin, end, bench.gpu);
        expect_identical(bench.device.to_host(w, bench.memory),
                         bench.decoded(q, DType::kBF16, begin, end));
      }
    }
  }
}

// Blocks that rows cut, and rows of whole blocks.
TEST(CudaDequantize, OtherBlockSizes) {
  RW_REQUIRE_GPU();
  for (const int64_t block_size : {2, 8, 16, 32, 48, 128, 1024, 2048, 4096}) {
    for (const bool double_quant : {false, true}) {
      for (const Shape& shape : {Shape{40, 136}, {5, 12288}}) {
        SCOPED_TRACE(fmt::format("{} blocks of {}", to_string(shape), block_size));
        Bench bench;
        const int64_t rows = shape.dim(0);
        const QuantizedTensor q =
            bench.quantized(bench.memory.normal(shape), double_quant, block_size);
        const QuantizedTensor on_gpu = bench.on_gpu(q);
        for (const int64_t begin : {0, 1}) {
          const Tensor w = bench.device.poisoned(DType::kBF16, {rows - begin, shape.dim(1)}, 8);
          dequantize_rows(w, on_gpu, begin, rows, bench.gpu);
          expect_identical(bench.device.to_host(w, bench.memory),
                           bench.decoded(q, DType::kBF16, begin, rows));
        }
      }
    }
  }
}

TEST(CudaExpandWeight, TakesQuantizedAndDenseWeights) {
  RW_REQUIRE_GPU();
  for (const Shape& shape : {Shape{24, 64}, Shape{5, 172}}) {
    Bench bench;
    const Tensor w = bench.memory.normal(shape);
    const QuantizedTensor q = bench.quantized(w, true);
    for (const DType out_type : kActivationTypes) {
      const Tensor out = bench.device.poisoned(out_type, shape, 8);
      const auto expand = [&](const Weight& weight) {
        cuda::expand_weight(out.raw(), out_type, out.row_stride(), weight, bench.gpu);
        return bench.device.to_host(out, bench.memory);
      };
      expect_identical(expand(bench.on_gpu(q)), bench.decoded(q, out_type, 0, shape.dim(0)));
      for (const DType in_type : kActivationTypes) {
        const DType narrower = in_type == DType::kBF16 ? in_type : out_type;
        expect_identical(expand(bench.device.copy_of(w, in_type)),
                         rounded(bench.memory.copy_of(w), narrower));
      }
    }
  }
}

}  // namespace
}  // namespace rankwise
