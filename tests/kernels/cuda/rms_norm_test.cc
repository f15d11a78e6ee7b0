// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::expect_identical;
using testing::expect_near;
using testing::kActivationTypes;

constexpr float kEps = 1e-5f;

double tolerance(DType dtype) { return dtype == DType::kF32 ? 1e-5 : 8e-3; }

// The same inputs, rounded to `dtype`, on both devices.
struct Call : testing::Backends {
  Call(int64_t rows, int64_t width, DType type, int64_t extra) : dtype(type) {
    const Shape shape{rows, width};
    x = pair(memory.normal(shape, 3.0f), dtype, extra);
    dy = pair(memory.normal(shape), dtype, extra);
    dx = pair(memory.normal(shape), dtype, extra);
    weight = memory.normal({width});
    dweight = memory.normal({width});
    y = device.poisoned(dtype, shape, extra);
    inv_rms = device.poisoned(DType::kF32, {rows});
    gpu_weight = device.copy_of(weight);
    gpu_dweight = device.copy_of(dweight);
    host_y = memory.poisoned(shape);
    host_inv_rms = memory.poisoned({rows});
    rms_norm(host_y, host_inv_rms, x.host, weight, kEps, cpu);
    rms_norm(y, inv_rms, x.gpu, gpu_weight, kEps, gpu);
  }
  void backward(const Pair& out, bool accumulate, bool with_weight) {
    const Tensor none;
    rms_norm_backward(out.host, with_weight ? dweight : none, dy.host, x.host, weight, host_inv_rms,
                      accumulate, cpu);
    rms_norm_backward(out.gpu, with_weight ? gpu_dweight : none, dy.gpu, x.gpu, gpu_weight, inv_rms,
                      accumulate, gpu);
    expect_near(device.to_host(out.gpu, memory), out.host, tolerance(dtype));
    expect_near(device.to_host(gpu_dweight, memory), dweight, 2e-5);
  }

  DType dtype;
  Pair x, dy, dx;
  Tensor weight, dweight, gpu_weight, gpu_dweight;
  Tensor y, inv_rms, host_y, host_inv_rms;
};

// One to four packs per thread and rows too long to be held, in packs and in single elements.
const std::vector<std::pair<int64_t, int64_t>> kShapes{
    {1, 3},    {1, 8},    {3, 24},   {65, 100}, {5, 172},  {2, 258},   {3, 700},
    {70, 257}, {4, 2048}, {3, 4096}, {2, 4100}, {3, 5120}, {2, 16384}, {2, 32776}};

TEST(RmsNormCuda, AgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const auto& [rows, width] : kShapes) {
    for (const DType dtype : kActivationTypes) {
      for (const int64_t extra : {0, 8, 3}) {
        SCOPED_TRACE(::testing::Message()
                     << rows << " x " << width << " " << name_of(dtype) << " extra " << extra);
        Call call(rows, width, dtype, extra);
        expect_near(call.device.to_host(call.y, call.memory), call.host_y, tolerance(dtype));
        expect_near(call.device.to_host(call.inv_rms, call.memory), call.host_inv_rms, 1e-5);
        call.backward(call.dx, false, true);
        call.backward(call.dx, true, true);
      }
    }
  }
}

TEST(RmsNormCuda, BackwardLeavesTheWeightGradientThatIsNotWanted) {
  RW_REQUIRE_GPU();
  Call call(65, 172, DType::kBF16, 0);
  call.backward(call.dx, true, false);
}

TEST(RmsNormCuda, BackwardMayOverwriteItsInputGradient) {
  RW_REQUIRE_GPU();
  for (const int64_t width : {172, 4096, 32776}) {
    Call call(70, width, DType::kBF16, 0);
    call.backward(call.dy, false, true);
  }
}

TEST(RmsNormCuda, RepeatsItsBits) {
  RW_REQUIRE_GPU();
  Call one(300, 1000, DType::kF32, 0);
  one.backward(one.dx, false, true);
  Call two(300, 1000, DType::kF32, 0);
  two.backward(two.dx, false, true);
  expect_identical(two.device.to_host(two.gpu_dweight, two.memory),
                   one.device.to_host(one.gpu_dweight, one.memory));
  expect_identical(two.device.to_host(two.dx.gpu, two.memory),
                   one.device.to_host(one.dx.gpu, one.memory));
}

TEST(RmsNormCuda, MeasuresTheScratchMemoryItTakes) {
  RW_REQUIRE_GPU();
  Call call(300, 100, DType::kBF16, 0);
  Stream measuring(call.gpu.device(), Stream::Mode::kMeasure);
  rms_norm_backward(call.dx.gpu, call.gpu_dweight, call.dy.gpu, call.x.gpu, call.gpu_weight,
                    call.inv_rms, true, measuring);
  call.backward(call.dx, true, true);
  EXPECT_GT(measuring.scratch_peak_bytes(), 0u);
  EXPECT_EQ(measuring.scratch_peak_bytes(), call.gpu.scratch_peak_bytes());
}

}  // namespace
}  // namespace rankwise
