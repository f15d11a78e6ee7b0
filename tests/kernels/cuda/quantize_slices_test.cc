// SPDX-License-Identifier: Apache-2.0
// Slices of NF4 matrices on a GPU give the bits of the CPU.
#include <gtest/gtest.h>

#include <utility>

#include "kernels/cuda/dequantize.h"
#include "tests/kernels/cuda/nf4_slices_on_gpu.h"

namespace rankwise {
namespace {

using testing::copy_of;
using testing::description_of;
using testing::DeviceMemory;
using testing::expect_identical;
using testing::for_each_slice;
using testing::kActivationTypes;
using testing::kGpu;
using testing::kSlicedShapes;
using testing::on_gpu;
using testing::rounded;
using testing::slice_of;
using testing::slices_of;
using testing::WholeNf4;

// Rows [begin, end) of the slice decoded on both, rows of the result lying `extra` elements apart.
void compare_rows(WholeNf4& whole, const QuantizedTensor& part, const QuantizedTensor& device_part,
                  const std::pair<int64_t, int64_t>& rows, int64_t extra, DeviceMemory& device,
                  Stream& gpu) {
  const auto [begin, end] = rows;
  const Shape shape{end - begin, part.shape.dim(1)};
  for (const DType type : kActivationTypes) {
    SCOPED_TRACE(fmt::format("{} rows [{}, {}) + {}", name_of(type), begin, end, extra));
    const Tensor expected = whole.memory.poisoned(shape);
    dequantize_rows(expected, part, begin, end, whole.cpu);
    const Tensor out = device.poisoned(type, shape, extra);
    dequantize_rows(out, device_part, begin, end, gpu);
    expect_identical(device.to_host(out, whole.memory), rounded(expected, type));
  }
}

TEST(CudaNf4Slice, DecodesToTheBitsOfTheCpuWhateverTheStride) {
  RW_REQUIRE_GPU();
  for_each_slice([](WholeNf4& whole, const MatrixSlice& slice, Stream& gpu, DeviceMemory& device) {
    const QuantizedTensor part = whole.slice(slice);
    const QuantizedTensor device_part = on_gpu(part, device);
    const int64_t rows = part.shape.dim(0);
    for (const int64_t extra : {0, 3, 16}) {
      compare_rows(whole, part, device_part, {0, rows}, extra, device, gpu);
    }
    compare_rows(whole, part, device_part, {rows / 3, rows}, 8, device, gpu);
    compare_rows(whole, part, device_part, {rows / 2, rows / 2}, 0, device, gpu);
  });
}

TEST(CudaNf4Slice, OtherBlockSizes) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  for (const int64_t block_size : {2, 8, 48, 128, 4096}) {
    WholeNf4 whole({40, 1088}, false);
    whole.q.block_size = block_size;
    whole.q.absmax = whole.memory.poisoned({whole.q.blocks()});
    quantize_nf4(whole.q, whole.w, whole.cpu);
    for (const MatrixSlice& slice : slices_of(whole.q.shape)) {
      SCOPED_TRACE(description_of(slice));
      DeviceMemory device(gpu);
      const QuantizedTensor part = whole.slice(slice);
      compare_rows(whole, part, on_gpu(part, device), {0, part.shape.dim(0)}, 0, device, gpu);
    }
  }
}

TEST(CudaNf4Slice, MatricesOfALargeModelAtTensorEight) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  for (const auto& [shape, dim] : {std::pair{Shape{4096, 11008}, 1}, {Shape{11008, 4096}, 0}}) {
    WholeNf4 whole(shape, true);
    for (const int64_t rank : {3, 7}) {
      SCOPED_TRACE(rank);
      DeviceMemory device(gpu);
      const QuantizedTensor part = whole.slice(slice_of(shape, dim, rank, 8));
      compare_rows(whole, part, on_gpu(part, device), {0, part.shape.dim(0)}, 0, device, gpu);
    }
  }
}

TEST(CudaQuantizeNf4Blocks, GivesTheBitsOfTheCpu) {
  RW_REQUIRE_GPU();
  for (const Shape& shape : kSlicedShapes) {
    SCOPED_TRACE(to_string(shape));
    WholeNf4 whole(shape, false);
    testing::Backends both;
    const Tensor w = whole.w.reshaped({whole.w.numel()});
    const Tensor codes = both.device.poisoned(DType::kU8, whole.q.codes.shape());
    const Tensor scales = both.device.poisoned(DType::kF32, whole.q.absmax.shape());
    quantize_nf4_blocks(codes, scales, both.device.copy_of(w), both.gpu);
    expect_identical(both.device.to_host(codes, both.memory), whole.q.codes);
    expect_identical(both.device.to_host(scales, both.memory), whole.q.absmax);
  }
}

TEST(CudaSetNf4Scales, GivesTheBitsOfTheCpu) {
  RW_REQUIRE_GPU();
  for_each_slice([](WholeNf4& whole, const MatrixSlice& slice, Stream& gpu, DeviceMemory& device) {
    const QuantizedTensor expected = whole.slice(slice);
    QuantizedTensor out = expected;
    out.codes = device.copy_of(expected.codes);
    out.nested_offset = 0.0f;
    for (Tensor* part : {&out.absmax, &out.nested_absmax, &out.nested_map}) {
      if (part->defined()) *part = device.poisoned(part->dtype(), part->shape());
    }
    set_nf4_scales(out, whole.scales(), gpu);
    EXPECT_EQ(out.nested_offset, expected.nested_offset);
    expect_identical(device.to_host(out.absmax, whole.memory), expected.absmax);
    if (!out.nested()) return;
    expect_identical(device.to_host(out.nested_absmax, whole.memory), expected.nested_absmax);
    expect_identical(device.to_host(out.nested_map, whole.memory), expected.nested_map);
  });
}

}  // namespace
}  // namespace rankwise
