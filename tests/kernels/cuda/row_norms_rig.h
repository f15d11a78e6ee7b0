// SPDX-License-Identifier: Apache-2.0
// Layers and lists of layers whose row norms both backends compute.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <vector>

#include "kernels/row_norms.h"
#include "tests/kernels/cuda/nf4_slices_on_gpu.h"

namespace rankwise::testing {

// A layer on both devices, A as columns of a wider matrix, and with a change as large as the
// weights, which are of the size 0.05.
struct RowNormsRig {
  // margin: of A, 3 for misaligned rows.
  RowNormsRig(WholeNf4& host, DeviceMemory& device_memory, Stream& stream, int64_t rank,
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
  void expect_base_without_a_change(DType compute) {
    on_device.b = device.copy_of(memory.zeros(layer.b.shape()));
    expect_identical(on_gpu(0.25f, compute), device.to_host(device_base, memory));
  }
  // For a stream that nothing else used.
  void expect_scratch_as_measured(DType compute) {
    Stream measuring(kGpu, Stream::Mode::kMeasure);
    base_row_squares(device_base, *on_device.weight, measuring);
    EXPECT_EQ(measuring.scratch_peak_bytes(), gpu.scratch_peak_bytes());
    on_gpu(0.25f, compute);
    const RowSquares matrix{device_base, device_base, on_device};
    row_squares({&matrix, 1}, compute, measuring);
    EXPECT_EQ(measuring.scratch_peak_bytes(), gpu.scratch_peak_bytes());
  }

  GuardedMemory& memory;
  DeviceMemory& device;
  Stream& cpu;
  Stream& gpu;
  LowRankLinear layer, on_device;
  Tensor base, device_base;
};

// Matrices of one list; it begins with ten of NF4 weights in blocks that no row and no slice cuts.
struct RowNormsList {
  RowNormsList(DeviceMemory& device_memory, Stream& stream) : device(device_memory), gpu(stream) {
    for (const bool double_quant : {true, false}) {
      for (const int64_t rank : {1, 16, 40}) {
        wholes.emplace_back(Shape{260 + rank, 192}, double_quant);
        add_nf4(wholes.back().q, rank);
      }
      const Shape shape = {128, 2112};
      wholes.emplace_back(shape, double_quant);
      add_nf4(wholes.back().slice(slice_of(shape, 0, 1, 4)), 16);
      add_nf4(wholes.back().slice(slice_of(shape, 1, 1, 3)), 16);
    }
  }

  // Of the last of `wholes`.
  void add(const Weight& weight, const Weight& device_weight, int64_t rank) {
    const Weight& kept = weights.emplace_back(weight);
    const Weight& kept_on_device = weights.emplace_back(device_weight);
    rigs.emplace_back(wholes.back(), device, gpu, rank, kept, kept_on_device);
  }
  void add_nf4(const QuantizedTensor& q, int64_t rank) { add(q, on_gpu(q, device), rank); }

  // In one call on `stream`, which nothing else used: the squares of single matrices to the bit,
  // and for every second one the factors.
  void expect_same_as_single(DType compute, Stream& stream) {
    std::vector<RowSquares> list;
    for (const RowNormsRig& rig : rigs) {
      list.push_back(
          {device.poisoned(DType::kF32, rig.base.shape()), rig.device_base, rig.on_device});
      if (list.size() % 2 == 0) continue;
      list.back().m = rig.device_base;
      list.back().c = device.poisoned(DType::kF32, rig.base.shape());
    }
    gpu.synchronize();  // it filled what `stream` reads and writes
    Stream measuring(kGpu, Stream::Mode::kMeasure);
    row_squares(list, compute, measuring);
    row_squares(list, compute, stream);
    stream.synchronize();
    EXPECT_EQ(measuring.scratch_peak_bytes(), stream.scratch_peak_bytes());
    for (size_t i = 0; i < rigs.size(); ++i) {
      SCOPED_TRACE(fmt::format("{} {}", i, name_of(compute)));
      GuardedMemory& memory = rigs[i].memory;
      expect_identical(device.to_host(list[i].squares, memory), rigs[i].on_gpu(0.25f, compute));
      rigs[i].expect_same(compute);
      if (!list[i].c.defined()) continue;
      const Tensor factors = device.poisoned(DType::kF32, list[i].c.shape());
      magnitude_factors(factors, list[i].m, list[i].squares, gpu);
      expect_identical(device.to_host(list[i].c, memory), device.to_host(factors, memory));
    }
  }

  DeviceMemory& device;
  Stream& gpu;
  std::deque<WholeNf4> wholes;
  std::deque<Weight> weights;
  std::deque<RowNormsRig> rigs;
};

}  // namespace rankwise::testing
