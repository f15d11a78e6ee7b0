// SPDX-License-Identifier: Apache-2.0
#include "kernels/row_norms.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <vector>

#include "tests/kernels/cuda/nf4_slices_on_gpu.h"

namespace rankwise {
namespace {

using testing::Backends;
using testing::DeviceMemory;
using testing::expect_identical;
using testing::expect_near;
using testing::for_each_slice;
using testing::GuardedMemory;
using testing::kActivationTypes;
using testing::kGpu;
using testing::on_gpu;
using testing::rounded;
using testing::slice_of;
using testing::WholeNf4;

// A layer on both devices, A as columns of a wider matrix, and with a change as large as the
// weights, which are of the size 0.05.
struct Rig {
  // margin: of A, 3 for misaligned rows.
  Rig(WholeNf4& host, DeviceMemory& device_memory, Stream& stream, int64_t rank,
      const Weight& weight, const Weight& device_weight, int64_t margin = 64)
      : memory(host.memory), device(device_memory), cpu(host.cpu), gpu(stream) {
    const int64_t out = shape_of(weight).dim(0), in = shape_of(weight).dim(1);
    const Tensor a = memory.normal({rank, in + 2 * margin}, 0.2f);
    const Tensor b = memory.normal({out, rank}, 1.0f / std::sqrt(static_cast<float>(rank)));
    layer = {&weight, a.columns(margin, margin + in), b, 0.25f};
    on_device = {&device_weight, device.copy_of(a).columns(margin, margin + in), device.copy_of(b),
                 0.25f};
    base = memory.poisoned({out});
    device_base = device.poisoned(DType::kF32, {out});
    base_row_squares(base, weight, cpu);
    base_row_squares(device_base, device_weight, gpu);
    expect_near(device.to_host(device_base, memory), base, 1e-6);
  }

  Tensor on_cpu(float scale) {
    const Tensor squares = memory.poisoned(base.shape());
    layer.scale = scale;
    const RowSquares matrix{squares, base, layer};
    row_squares({&matrix, 1}, DType::kF32, cpu);
    return squares;
  }
  Tensor on_gpu(float scale, DType compute) {
    const Tensor squares = device.poisoned(DType::kF32, base.shape());
    on_device.scale = scale;
    const RowSquares matrix{squares, device_base, on_device};
    row_squares({&matrix, 1}, compute, gpu);
    return device.to_host(squares, memory);
  }
  Tensor difference(const Tensor& x, const Tensor& y) {
    const Tensor out = memory.poisoned(x.shape());
    for (int64_t i = 0; i < x.numel(); ++i) {
      out.data<float>()[i] = x.data<float>()[i] - y.data<float>()[i];
    }
    return out;
  }

  void expect_same(DType compute) {
    const bool exact = compute == DType::kF32;
    const Tensor plus = on_gpu(0.25f, compute), minus = on_gpu(-0.25f, compute);
    const Tensor expected_plus = on_cpu(0.25f), expected_minus = on_cpu(-0.25f);
    expect_near(plus, expected_plus, exact ? 1e-5 : 2e-3);
    // The products with W alone: the other terms do not depend on the sign.
    expect_near(difference(plus, minus), difference(expected_plus, expected_minus),
                exact ? 1e-4 : 1.5e-2);
    expect_identical(on_gpu(0.25f, compute), plus);
  }

  GuardedMemory& memory;
  DeviceMemory& device;
  Stream& cpu;
  Stream& gpu;
  LowRankLinear layer, on_device;
  Tensor base, device_base;
};

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
          Rig rig(whole, device, gpu, rank, weight, device_weight, margin);
          for (const DType compute : kActivationTypes) {
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
    Rig rig(whole, device, gpu, 8, weight, device_weight);
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
        Rig rig(whole, device, gpu, rank, weight, device_weight);
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
  std::deque<WholeNf4> wholes;
  std::deque<Weight> weights;
  std::deque<Rig> rigs;
  const auto add = [&](const Weight& weight, const Weight& on_device, int64_t rank) {
    weights.push_back(weight);
    weights.push_back(on_device);
    rigs.emplace_back(wholes.back(), device, gpu, rank, weights[weights.size() - 2],
                      weights.back());
  };
  const auto add_nf4 = [&](const QuantizedTensor& q, int64_t rank) {
    add(q, on_gpu(q, device), rank);
  };
  for (const bool double_quant : {true, false}) {
    for (const int64_t rank : {1, 16, 40}) {
      wholes.emplace_back(Shape{260 + rank, 192}, double_quant);
      add_nf4(wholes.back().q, rank);
    }
    wholes.emplace_back(Shape{128, 2112}, double_quant);
    add_nf4(wholes.back().slice(slice_of(wholes.back().w.shape(), 0, 1, 4)), 16);
    add_nf4(wholes.back().slice(slice_of(wholes.back().w.shape(), 1, 1, 3)), 16);
    wholes.emplace_back(Shape{43, 172}, double_quant);
    add_nf4(wholes.back().q, 16);
    add(rounded(wholes.back().w, DType::kBF16), device.copy_of(wholes.back().w, DType::kBF16), 16);
  }
  for (const DType compute : kActivationTypes) {
    std::vector<RowSquares> list;
    for (const Rig& rig : rigs) {
      list.push_back(
          {device.poisoned(DType::kF32, rig.base.shape()), rig.device_base, rig.on_device});
      if (list.size() % 2 == 0) continue;
      list.back().m = rig.device_base;
      list.back().c = device.poisoned(DType::kF32, rig.base.shape());
    }
    Stream measuring(kGpu, Stream::Mode::kMeasure), real(kGpu);
    set_matmul_tuning(real, false);
    row_squares(list, compute, measuring);
    row_squares(list, compute, real);
    real.synchronize();
    EXPECT_EQ(measuring.scratch_peak_bytes(), real.scratch_peak_bytes());
    for (size_t i = 0; i < rigs.size(); ++i) {
      SCOPED_TRACE(fmt::format("{} {}", i, name_of(compute)));
      expect_identical(device.to_host(list[i].squares, rigs[i].memory),
                       rigs[i].on_gpu(0.25f, compute));
      rigs[i].expect_same(compute);
      if (!list[i].c.defined()) continue;
      const Tensor factors = device.poisoned(DType::kF32, list[i].c.shape());
      magnitude_factors(factors, list[i].m, list[i].squares, gpu);
      expect_identical(device.to_host(list[i].c, rigs[i].memory),
                       device.to_host(factors, rigs[i].memory));
    }
  }
}

TEST(CudaRowNorms, WithoutAChangeAreThoseOfTheBaseToTheBit) {
  RW_REQUIRE_GPU();
  Stream gpu(kGpu);
  WholeNf4 whole({300, 192}, true);
  DeviceMemory device(gpu);
  const Weight weight = whole.q, device_weight = on_gpu(whole.q, device);
  Rig rig(whole, device, gpu, 16, weight, device_weight);
  rig.on_device.b = device.copy_of(whole.memory.zeros({300, 16}));
  const Tensor base = device.to_host(rig.device_base, whole.memory);
  for (const DType compute : kActivationTypes) expect_identical(rig.on_gpu(0.25f, compute), base);
}

TEST(CudaRowNorms, MeasuringNotesTheScratchOfARealRun) {
  RW_REQUIRE_GPU();
  for (const Shape& shape : {Shape{2100, 128}, {43, 172}}) {
    for (const bool quantized : {true, false}) {
      for (const DType compute : kActivationTypes) {
        Stream gpu(kGpu), measuring(kGpu, Stream::Mode::kMeasure);
        WholeNf4 whole(shape, true);
        DeviceMemory device(gpu);
        const Weight weight = quantized ? Weight(whole.q) : Weight(whole.w);
        const Weight device_weight =
            quantized ? Weight(on_gpu(whole.q, device)) : Weight(device.copy_of(whole.w));
        Rig rig(whole, device, gpu, 40, weight, device_weight);
        base_row_squares(rig.device_base, device_weight, measuring);
        EXPECT_EQ(measuring.scratch_peak_bytes(), gpu.scratch_peak_bytes());
        rig.on_gpu(0.25f, compute);
        const RowSquares matrix{rig.device_base, rig.device_base, rig.on_device};
        row_squares({&matrix, 1}, compute, measuring);
        EXPECT_EQ(measuring.scratch_peak_bytes(), gpu.scratch_peak_bytes());
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
