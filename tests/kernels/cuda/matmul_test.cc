// SPDX-License-Identifier: Apache-2.0
// Products on a GPU against those of the CPU on the same rounded values.
#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <tuple>

#include "kernels/cuda/matmul_call.h"
#include "kernels/quantize.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::DeviceMemory;
using testing::expect_identical;
using testing::expect_near;
using testing::GuardedMemory;
using testing::kActivationTypes;
using testing::kGpu;
using testing::rounded;

struct Types {
  DType input, output;
  double tolerance;
};
const Types kTypes[] = {{DType::kF32, DType::kF32, 2e-5},
                        {DType::kBF16, DType::kBF16, 1e-2},
                        {DType::kBF16, DType::kF32, 1e-4}};

struct Sizes {
  int64_t m, n, k;
};
const Sizes kSizes[] = {{1, 1, 1},    {1, 172, 43}, {333, 43, 172}, {7, 136, 24}, {128, 256, 64},
                        {65, 8, 129}, {3, 516, 8},  {200, 16, 512}, {16, 3, 200}};

// F32 values that `dtype` holds exactly.
Tensor values(GuardedMemory& memory, const Shape& shape, DType dtype) {
  return rounded(memory.uniform(shape), dtype);
}

using Multiply = std::function<void(const Tensor& c, const Tensor& a, const Tensor& b,
                                    const MatmulParams& params, Stream& stream)>;

// One product on both devices; extra: elements between rows on the GPU.
void compare(const Sizes& sizes, const MatmulParams& params, const Types& types, int64_t extra,
             const Multiply& multiply, Stream& stream) {
  SCOPED_TRACE(fmt::format("({}, {}, {}) transposes {} {} {} to {}, {} between rows, beta {}",
                           sizes.m, sizes.n, sizes.k, params.transpose_a, params.transpose_b,
                           name_of(types.input), name_of(types.output), extra, params.beta));
  GuardedMemory memory;
  DeviceMemory device(stream);
  Stream host;
  const auto& [m, n, k] = sizes;
  const Tensor a = values(memory, params.transpose_a ? Shape{k, m} : Shape{m, k}, types.input);
  const Tensor b = values(memory, params.transpose_b ? Shape{n, k} : Shape{k, n}, types.input);
  const Tensor c =
      params.beta == 0.0f ? memory.poisoned({m, n}) : values(memory, {m, n}, types.output);
  const Tensor on_device = device.copy_of(c, types.output, extra);
  multiply(on_device, device.copy_of(a, types.input, extra), device.copy_of(b, types.input, extra),
           params, stream);
  matmul(c, a, b, params, host);
  expect_near(device.to_host(on_device, memory), c, types.tolerance);
}

void compare_all(const Multiply& multiply, Stream& stream) {
  for (const Sizes& sizes : kSizes) {
    for (const Types& types : kTypes) {
      for (int i = 0; i < 8; ++i) {
        const MatmulParams params = {.transpose_a = (i & 1) != 0,
                                     .transpose_b = (i & 2) != 0,
                                     .alpha = 0.75f,
                                     .beta = (i & 4) != 0 ? 1.5f : 0.0f};
        for (const int64_t extra : {0, 3, 16}) {
          compare(sizes, params, types, extra, multiply, stream);
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(CudaMatmul, AgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  Stream stream(kGpu);
  set_matmul_tuning(stream, false);
  compare_all(matmul, stream);
}

TEST(CudaMatmul, TiledProductAgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  Stream stream(kGpu);
  compare_all([](const Tensor& c, const Tensor& a, const Tensor& b, const MatmulParams& params,
                 Stream& on) { cuda::tiled_matmul(cuda::matmul_call(c, a, b, params, c), on); },
              stream);
}

TEST(CudaMatmul, TuningChangesNoResult) {
  RW_REQUIRE_GPU();
  Stream stream(kGpu);
  for (const Types& types : kTypes) {
    for (const float beta : {0.0f, 1.0f}) {  // with beta 1, each run of a candidate would add
      for (const Sizes& sizes : {Sizes{256, 320, 128}, Sizes{48, 24, 1024}, Sizes{5, 43, 77}}) {
        const MatmulParams params = {.transpose_b = true, .beta = beta};
        compare(sizes, params, types, 0, matmul, stream);
        compare(sizes, params, types, 0, matmul, stream);
      }
    }
  }
}

TEST(CudaMatmul, RepeatedCallsAreBitIdentical) {
  RW_REQUIRE_GPU();
  GuardedMemory memory;
  for (const bool tuning : {true, false}) {
    Stream stream(kGpu);
    DeviceMemory device(stream);
    set_matmul_tuning(stream, tuning);
    const Tensor a = device.copy_of(memory.uniform({24, 4096}), DType::kBF16);
    const Tensor b = device.copy_of(memory.uniform({40, 4096}), DType::kBF16);
    const Tensor first = device.poisoned(DType::kF32, {24, 40});
    const Tensor again = device.poisoned(DType::kF32, {24, 40});
    matmul(first, a, b, {.transpose_b = true}, stream);
    matmul(again, a, b, {.transpose_b = true}, stream);
    expect_identical(device.to_host(again, memory), device.to_host(first, memory));
  }
}

TEST(CudaMatmul, ViewsThatBeginAtOddAddresses) {
  RW_REQUIRE_GPU();
  for (const DType dtype : kActivationTypes) {
    GuardedMemory memory;
    Stream stream(kGpu);
    Stream host;
    DeviceMemory device(stream);
    const Tensor a = values(memory, {33, 50}, dtype);
    const Tensor b = values(memory, {27, 60}, dtype);
    const Tensor c = values(memory, {33, 31}, dtype);
    const Tensor on_device = device.copy_of(c, dtype);
    matmul(on_device.columns(3, 30), device.copy_of(a, dtype).columns(1, 44),
           device.copy_of(b, dtype).columns(7, 50), {.transpose_b = true}, stream);
    matmul(c.columns(3, 30), a.columns(1, 44), b.columns(7, 50), {.transpose_b = true}, host);
    // The other columns of c are compared too: they must still hold what they held.
    expect_near(device.to_host(on_device, memory), c, dtype == DType::kF32 ? 2e-5 : 1e-2);
  }
}

TEST(CudaMatmul, GradientsOfColumnSlicesLeaveTheOtherColumns) {
  RW_REQUIRE_GPU();
  for (const auto& [width, begin, end] :
       {std::tuple<int64_t, int64_t, int64_t>{172, 43, 86}, {172, 86, 172}, {4096, 2048, 4096}}) {
    for (const DType dtype : kActivationTypes) {
      for (const bool tuning : {true, false}) {
        GuardedMemory memory;
        Stream stream(kGpu), host;
        set_matmul_tuning(stream, tuning);
        DeviceMemory device(stream);
        const Tensor dy = values(memory, {70, 16}, dtype);
        const Tensor x = values(memory, {70, width}, dtype);
        const Tensor dw = memory.uniform({16, width});
        const Tensor on_device = device.copy_of(dw);
        linear_backward_weight(on_device.columns(begin, end), device.copy_of(dy, dtype),
                               device.copy_of(x, dtype).columns(begin, end), stream);
        linear_backward_weight(dw.columns(begin, end), dy, x.columns(begin, end), host);
        expect_near(device.to_host(on_device, memory), dw, 1e-4);
      }
    }
  }
}

TEST(CudaMatmul, EmptySizes) {
  RW_REQUIRE_GPU();
  Stream stream(kGpu);
  const Types f32 = kTypes[0];
  compare({3, 2, 0}, {.beta = 2.0f}, f32, 0, matmul, stream);
  compare({3, 2, 0}, {}, f32, 0, matmul, stream);
  compare({0, 4, 3}, {}, f32, 0, matmul, stream);
  compare({4, 0, 3}, {}, f32, 0, matmul, stream);
}

QuantizedTensor on_device(const QuantizedTensor& q, DeviceMemory& device) {
  QuantizedTensor out = q;
  out.codes = device.copy_of(q.codes);
  out.absmax = device.copy_of(q.absmax);
  if (q.nested()) {
    out.nested_absmax = device.copy_of(q.nested_absmax);
    out.nested_map = device.copy_of(q.nested_map);
  }
  return out;
}

// linear and both of its gradients, with the weight in the storage that `place` gives it.
void compare_linear(const Shape& shape, DType type, const Weight& host_weight,
                    const Weight& device_weight, DeviceMemory& device, Stream& stream) {
  GuardedMemory memory;
  Stream host;
  const double tolerance = type == DType::kF32 ? 2e-5 : 1e-2;
  const int64_t out = shape.dim(0), in = shape.dim(1);
  for (const int64_t tokens : {1, 37}) {
    const Tensor x = values(memory, {tokens, in}, type);
    const Tensor dy = values(memory, {tokens, out}, type);
    const Tensor x_device = device.copy_of(x, type, 8);
    const Tensor dy_device = device.copy_of(dy, type, 8);
    for (const float beta : {0.0f, 1.0f}) {
      const Tensor y =
          beta == 0.0f ? memory.poisoned(dy.shape()) : values(memory, dy.shape(), type);
      const Tensor dx = beta == 0.0f ? memory.poisoned(x.shape()) : values(memory, x.shape(), type);
      const Tensor y_device = device.copy_of(y, type, 8);
      const Tensor dx_device = device.copy_of(dx, type, 8);
      linear(y_device, x_device, device_weight, beta, stream);
      linear_backward_input(dx_device, dy_device, device_weight, beta, stream);
      linear(y, x, host_weight, beta, host);
      linear_backward_input(dx, dy, host_weight, beta, host);
      expect_near(device.to_host(y_device, memory), y, tolerance);
      expect_near(device.to_host(dx_device, memory), dx, tolerance);
    }
    const Tensor dw = memory.uniform(shape);
    const Tensor dw_device = device.copy_of(dw);
    linear_backward_weight(dw_device, dy_device, x_device, stream);
    linear_backward_weight(dw, dy, x, host);
    expect_near(device.to_host(dw_device, memory), dw, 1e-4);
  }
}

TEST(CudaLinear, EveryStorageOfTheWeightAgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const Shape& shape : {Shape{64, 64}, Shape{43, 172}, Shape{516, 136}}) {
    for (const DType type : kActivationTypes) {
      SCOPED_TRACE(to_string(shape) + " " + std::string(name_of(type)));
      GuardedMemory memory;
      Arena arena;
      Stream stream(kGpu), host;
      set_matmul_tuning(stream, false);
      DeviceMemory device(stream);
      const Tensor w = values(memory, shape, DType::kBF16);
      compare_linear(shape, type, w, device.copy_of(w), device, stream);
      compare_linear(shape, type, w, device.copy_of(w, DType::kBF16), device, stream);
      QuantizedTensor q =
          allocate_nf4(MatrixSlice::all(shape), true, DType::kF32, arena, "weights");
      quantize_nf4(q, w, host);
      compare_linear(shape, type, q, on_device(q, device), device, stream);
    }
  }
}

TEST(CudaLinear, MeasuredScratchIsThatOfTheRun) {
  RW_REQUIRE_GPU();
  Stream stream(kGpu), host;
  DeviceMemory device(stream);
  GuardedMemory memory;
  Arena arena;
  QuantizedTensor q =
      allocate_nf4(MatrixSlice::all({96, 200}), true, DType::kF32, arena, "weights");
  quantize_nf4(q, memory.uniform(q.shape), host);
  const Tensor x = device.copy_of(memory.uniform({9, 200}), DType::kBF16);
  const Tensor y = device.poisoned(DType::kBF16, {9, 96});
  linear(y, x, on_device(q, device), 0.0f, stream);

  Stream measuring(kGpu, Stream::Mode::kMeasure);
  Arena measured(kGpu, Arena::Mode::kMeasure);
  linear(measured.allocate("y", DType::kBF16, y.shape()),
         measured.allocate("x", DType::kBF16, x.shape()),
         allocate_nf4(MatrixSlice::all(q.shape), true, DType::kF32, measured, "weights"), 0.0f,
         measuring);
  EXPECT_GT(measuring.scratch_peak_bytes(), 96u * 200u * 2u);
  EXPECT_EQ(measuring.scratch_peak_bytes(), stream.scratch_peak_bytes());
}

}  // namespace
}  // namespace rankwise
