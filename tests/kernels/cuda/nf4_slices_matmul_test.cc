// SPDX-License-Identifier: Apache-2.0
// Products with slices of NF4 matrices on a GPU against the CPU.
#include <gtest/gtest.h>

#include "tests/kernels/cuda/nf4_slices_on_gpu.h"

namespace rankwise {
namespace {

using testing::DeviceMemory;
using testing::expect_near;
using testing::for_each_slice;
using testing::kActivationTypes;
using testing::on_gpu;
using testing::rounded;
using testing::WholeNf4;

TEST(CudaNf4SliceProducts, AgreeWithTheCpu) {
  RW_REQUIRE_GPU();
  for_each_slice([](WholeNf4& whole, const MatrixSlice& slice, Stream& gpu, DeviceMemory& device) {
    const QuantizedTensor part = whole.slice(slice);
    const QuantizedTensor device_part = on_gpu(part, device);
    const int64_t out = part.shape.dim(0), in = part.shape.dim(1);
    for (const DType type : kActivationTypes) {
      const double tolerance = type == DType::kF32 ? 2e-5 : 1e-2;
      const Tensor x = rounded(whole.memory.uniform({9, in}), type);
      const Tensor dy = rounded(whole.memory.uniform({9, out}), type);
      const Tensor y = whole.memory.poisoned({9, out}), dx = whole.memory.poisoned({9, in});
      const Tensor device_y = device.poisoned(type, y.shape(), 8);
      const Tensor device_dx = device.poisoned(type, dx.shape(), 8);
      linear(y, x, part, 0.0f, whole.cpu);
      linear_backward_input(dx, dy, part, 0.0f, whole.cpu);
      linear(device_y, device.copy_of(x, type, 8), device_part, 0.0f, gpu);
      linear_backward_input(device_dx, device.copy_of(dy, type, 8), device_part, 0.0f, gpu);
      expect_near(device.to_host(device_y, whole.memory), y, tolerance);
      expect_near(device.to_host(device_dx, whole.memory), dx, tolerance);
    }
  });
}

}  // namespace
}  // namespace rankwise
