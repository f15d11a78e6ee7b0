// SPDX-License-Identifier: Apache-2.0
// Row norms as far as they do without cuBLASLt: those from the codes, of the base, magnitudes.
#include "kernels/cuda/row_norms_nf4.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/kernels/cuda/row_norms_rig.h"

namespace rankwise {
namespace {

using testing::Backends;
using testing::description_of;
using testing::DeviceMemory;
using testing::expect_near;
using testing::kActivationTypes;
using testing::kGpu;
using testing::on_gpu;
using testing::rounded;
using testing::RowNormsList;
using testing::RowNormsRig;
using testing::WholeNf4;

constexpr DType kCompute = DType::kBF16;  // products in F32 do not use the codes

TEST(CudaNf4RowNorms, AgreeWithTheCpu) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  for (const Shape& shape : {Shape{43, 64}, {1024, 64}, {129, 320}, {43, 4096}, {1024, 4096}}) {
    for (const bool double_quant : {false, true}) {
      WholeNf4 whole(shape, double_quant);
      DeviceMemory device(gpu);
      const Weight weight = whole.q, device_weight = on_gpu(whole.q, device);
      ASSERT_TRUE(cuda::fits_nf4_crosses(device_weight));
      for (const int64_t rank : {1, 8, 16, 40, 64, 100}) {
        if (shape.numel() > 1000000 && rank != 16 && rank != 100) continue;
        for (const int64_t margin : {64, 3}) {
          SCOPED_TRACE(fmt::format("{} rank {}{}, margin {}", to_string(shape), rank,
                                   double_quant ? " double" : "", margin));
          RowNormsRig rig(whole, device, gpu, rank, weight, device_weight, margin);
          rig.expect_same(kCompute);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(CudaNf4RowNorms, OfSlicesAgreeWithTheCpu) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  for (const bool double_quant : {false, true}) {
    WholeNf4 whole({128, 2112}, double_quant);
    int taken = 0;
    for (const MatrixSlice& slice : testing::slices_of(whole.w.shape())) {
      SCOPED_TRACE(description_of(slice) + (double_quant ? " double" : " single"));
      DeviceMemory device(gpu);
      const QuantizedTensor part = whole.slice(slice);
      const Weight weight = part, device_weight = on_gpu(part, device);
      if (!cuda::fits_nf4_crosses(device_weight)) continue;
      RowNormsRig rig(whole, device, gpu, 16, weight, device_weight);
      rig.expect_same(kCompute);
      ++taken;
    }
    EXPECT_EQ(taken, 2 + 3 + 4 + 3);  // of the columns only thirds are whole blocks
  }
}

TEST(CudaNf4RowNorms, OfMoreMatricesThanALaunchTakesAreThoseOfSingleMatricesToTheBit) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu), stream(kGpu);
  DeviceMemory device(gpu);
  RowNormsList list(device, gpu);
  ASSERT_GT(list.rigs.size(), static_cast<size_t>(cuda::kMatricesPerLaunch));
  for (const RowNormsRig& rig : list.rigs) {
    ASSERT_TRUE(cuda::fits_nf4_crosses(*rig.on_device.weight));
  }
  list.expect_same_as_single(kCompute, stream);
}

TEST(CudaNf4RowNorms, GiveTheFactorsOfTheCpu) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  WholeNf4 whole({300, 192}, true);
  DeviceMemory device(gpu);
  const Weight weight = whole.q, device_weight = on_gpu(whole.q, device);
  ASSERT_TRUE(cuda::fits_nf4_crosses(device_weight));
  for (const int64_t rank : {1, 40, 100}) {
    RowNormsRig rig(whole, device, gpu, rank, weight, device_weight);
    const Tensor m = whole.memory.normal({300});
    m.data<float>()[5] = 0.0f;
    // A norm of 0, and a square that is negative but for the bound.
    rig.base.data<float>()[7] = 0.0f;
    rig.base.data<float>()[299] = -1.0f;
    for (const int64_t row : {7, 299}) {
      std::fill_n(rig.layer.b.data<float>() + row * rank, rank, 0.0f);
    }
    rig.on_device.b = device.copy_of(rig.layer.b);
    const RowSquares host{whole.memory.poisoned({300}), rig.base, rig.layer, m,
                          whole.memory.poisoned({300})};
    const RowSquares matrix{device.poisoned(DType::kF32, {300}), device.copy_of(rig.base),
                            rig.on_device, device.copy_of(m), device.poisoned(DType::kF32, {300})};
    row_squares({&host, 1}, DType::kF32, whole.cpu);
    row_squares({&matrix, 1}, kCompute, gpu);
    const Tensor squares = device.to_host(matrix.squares, whole.memory);
    const Tensor c = device.to_host(matrix.c, whole.memory);
    expect_near(squares, host.squares, 2e-3);
    expect_near(c, host.c, 2e-3);
    for (const int64_t row : {7, 299}) EXPECT_EQ(squares.data<float>()[row], 0.0f);
    for (const int64_t row : {5, 7, 299}) EXPECT_EQ(c.data<float>()[row], 0.0f);
  }
}

TEST(CudaNf4RowNorms, WithoutAChangeAreThoseOfTheBaseToTheBit) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  WholeNf4 whole({300, 192}, true);
  DeviceMemory device(gpu);
  const Weight weight = whole.q, device_weight = on_gpu(whole.q, device);
  RowNormsRig rig(whole, device, gpu, 16, weight, device_weight);
  rig.expect_base_without_a_change(kCompute);
}

TEST(CudaNf4RowNorms, MeasuringNotesTheScratchOfARealRun) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  WholeNf4 whole({2100, 128}, true);
  DeviceMemory device(gpu);
  const Weight weight = whole.q, device_weight = on_gpu(whole.q, device);
  RowNormsRig rig(whole, device, gpu, 40, weight, device_weight);
  rig.expect_scratch_as_measured(kCompute);
}

// Which every rig compares.
TEST(CudaBaseRowSquares, AgreeWithTheCpu) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  for (const Shape& shape : {Shape{2100, 128}, {43, 172}, {16, 43}, {3, 4100}}) {
    for (const bool double_quant : {false, true}) {
      WholeNf4 whole(shape, double_quant);
      DeviceMemory device(gpu);
      const Weight coded = whole.q, coded_on_gpu = on_gpu(whole.q, device);
      RowNormsRig(whole, device, gpu, 1, coded, coded_on_gpu);
      const Weight dense = rounded(whole.w, DType::kBF16);
      for (const DType storage : kActivationTypes) {
        const Weight dense_on_gpu = device.copy_of(whole.w, storage);
        RowNormsRig(whole, device, gpu, 1, dense, dense_on_gpu);
      }
    }
  }
}

TEST(CudaMagnitudes, AgreeWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const int64_t in : {4096, 172, 43}) {
    Backends both;
    const Shape rows = {300};
    const auto w = both.pair(both.memory.normal({300, in}, 0.02f), DType::kF32);
    std::fill_n(w.host.data<float>() + 7 * in, in, 0.0f);
    upload(w.gpu, w.host.raw(), both.gpu);
    const Tensor magnitudes = both.memory.normal(rows), values = both.memory.uniform(rows, 0, 9);
    magnitudes.data<float>()[5] = values.data<float>()[6] = 0.0f;
    const auto m = both.pair(magnitudes, DType::kF32), squares = both.pair(values, DType::kF32);
    const auto c = both.pair(both.memory.normal(rows), DType::kF32);
    const auto norms = both.pair(both.memory.normal(rows), DType::kF32);
    magnitude_factors(c.host, m.host, squares.host, both.cpu);
    magnitude_factors(c.gpu, m.gpu, squares.gpu, both.gpu);
    square_roots(norms.host, squares.host, both.cpu);
    square_roots(norms.gpu, squares.gpu, both.gpu);
    set_row_norms(w.host, m.host, both.cpu);
    set_row_norms(w.gpu, m.gpu, both.gpu);
    for (const auto& pair : {c, norms, w}) {
      expect_near(both.device.to_host(pair.gpu, both.memory), pair.host, 2e-6);
    }
  }
}

}  // namespace
}  // namespace rankwise
