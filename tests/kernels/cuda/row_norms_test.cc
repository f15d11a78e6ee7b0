// SPDX-License-Identifier: Apache-2.0
// Row norms by products of cuBLASLt; row_norms_nf4_test.cc has what does without.
#include "kernels/row_norms.h"

#include <gtest/gtest.h>

#include "kernels/cuda/row_norms_nf4.h"
#include "tests/kernels/cuda/row_norms_rig.h"

namespace rankwise {
namespace {

using testing::DeviceMemory;
using testing::for_each_slice;
using testing::kActivationTypes;
using testing::kGpu;
using testing::on_gpu;
using testing::rounded;
using testing::RowNormsList;
using testing::RowNormsRig;
using testing::WholeNf4;

bool takes_a_product(const Weight& weight, DType compute) {
  return compute == DType::kF32 || !cuda::fits_nf4_crosses(weight);
}

TEST(CudaRowNorms, OfNf4WeightsAgreeWithTheCpu) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  set_matmul_tuning(gpu, false);
  for (const Shape& shape :
       {Shape{43, 64}, {1024, 64}, {43, 172}, {129, 320}, {43, 4096}, {1024, 4096}}) {
    for (const bool double_quant : {false, true}) {
      WholeNf4 whole(shape, double_quant);
      DeviceMemory device(gpu);
      const Weight weight = whole.q, device_weight = on_gpu(whole.q, device);
      for (const int64_t rank : {1, 8, 16, 40, 64, 100}) {
        if (shape.numel() > 1000000 && rank != 16 && rank != 100) continue;
        for (const int64_t margin : {64, 3}) {
          RowNormsRig rig(whole, device, gpu, rank, weight, device_weight, margin);
          for (const DType compute : kActivationTypes) {
            if (!takes_a_product(device_weight, compute)) continue;
            SCOPED_TRACE(fmt::format("{} rank {} {}{}, margin {}", to_string(shape), rank,
                                     name_of(compute), double_quant ? " double" : "", margin));
            rig.expect_same(compute);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(CudaRowNorms, OfSlicesAgreeWithTheCpu) {
  RW_REQUIRE_GPU();
  for_each_slice([](WholeNf4& whole, const MatrixSlice& slice, Stream& gpu, DeviceMemory& device) {
    const QuantizedTensor part = whole.slice(slice);
    const Weight weight = part, device_weight = on_gpu(part, device);
    RowNormsRig rig(whole, device, gpu, 8, weight, device_weight);
    rig.expect_same(DType::kF32);
    // Of few rows all might be nearly 0, but not the errors of rounding.
    if (part.shape.dim(0) >= 16) rig.expect_same(DType::kBF16);
  });
}

TEST(CudaRowNorms, OfDenseWeightsAgreeWithTheCpu) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  set_matmul_tuning(gpu, false);
  for (const Shape& shape : {Shape{43, 172}, {129, 64}, {16, 43}}) {
    WholeNf4 whole(shape, false);
    DeviceMemory device(gpu);
    const Weight weight = rounded(whole.w, DType::kBF16);
    for (const DType storage : kActivationTypes) {
      const Weight device_weight = device.copy_of(whole.w, storage);
      for (const int64_t rank : {1, 16, 40}) {
        RowNormsRig rig(whole, device, gpu, rank, weight, device_weight);
        for (const DType compute : kActivationTypes) rig.expect_same(compute);
      }
    }
  }
}

// More matrices than one launch takes, and some that it does not take.
TEST(CudaRowNorms, OfAMixedListAreThoseOfSingleMatricesToTheBit) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  set_matmul_tuning(gpu, false);
  DeviceMemory device(gpu);
  RowNormsList list(device, gpu);
  for (const bool double_quant : {true, false}) {
    WholeNf4& whole = list.wholes.emplace_back(Shape{43, 172}, double_quant);
    list.add_nf4(whole.q, 16);
    list.add(rounded(whole.w, DType::kBF16), device.copy_of(whole.w, DType::kBF16), 16);
  }
  for (const DType compute : kActivationTypes) {
    Stream stream(kGpu);
    set_matmul_tuning(stream, false);
    list.expect_same_as_single(compute, stream);
  }
}

TEST(CudaRowNorms, WithoutAChangeAreThoseOfTheBaseToTheBit) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  WholeNf4 whole({300, 192}, true);
  DeviceMemory device(gpu);
  const Weight weight = whole.q, device_weight = on_gpu(whole.q, device);
  RowNormsRig rig(whole, device, gpu, 16, weight, device_weight);
  rig.expect_base_without_a_change(DType::kF32);
}

TEST(CudaRowNorms, MeasuringNotesTheScratchOfARealRun) {
  RW_REQUIRE_GPU();
  for (const Shape& shape : {Shape{2100, 128}, {43, 172}}) {
    for (const bool quantized : {true, false}) {
      for (const DType compute : kActivationTypes) {
        Stream gpu(kGpu);
        WholeNf4 whole(shape, true);
        DeviceMemory device(gpu);
        const Weight weight = quantized ? Weight(whole.q) : Weight(whole.w);
        const Weight device_weight =
            quantized ? Weight(on_gpu(whole.q, device)) : Weight(device.copy_of(whole.w));
        if (!takes_a_product(device_weight, compute)) continue;
        RowNormsRig rig(whole, device, gpu, 40, weight, device_weight);
        rig.expect_scratch_as_measured(compute);
      }
    }
  }
}

}  // namespace
}  // namespace rankwise
