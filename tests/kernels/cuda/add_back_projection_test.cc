// SPDX-License-Identifier: Apache-2.0
// The way back from a projection to the weight: F32 as on the CPU, BF16 rounded stochastically.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/projection.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::Backends;
using testing::expect_identical;
using testing::expect_near;
using testing::GuardedMemory;
using testing::kGpu;

struct Case {
  int64_t out, in, left, right;  // ranks; 0: no factor
};
constexpr Case kCases[] = {{43, 172, 5, 0},    {172, 43, 0, 17},
                           {43, 172, 1, 5},    {128, 320, 64, 0},
                           {320, 136, 32, 64}, {136, 320, 8, 2},
                           {1, 9, 1, 0},       {1100, 4096, 2, 0},
                           {1100, 4099, 0, 3}};  // the last two take more than one block of rows

struct Rig : Backends {
  Projection host, on_gpu;

  // `exact`: small whole numbers, whose products and sums no order of operations rounds.
  Rig(const Case& c, bool exact) {
    if (c.left > 0) add(host.left, on_gpu.left, {c.out, c.left}, exact);
    if (c.right > 0) add(host.right, on_gpu.right, {c.right, c.in}, exact);
  }
  void add(Tensor& on_host, Tensor& copy, const Shape& shape, bool exact) {
    on_host = values(shape, exact);
    copy = device.copy_of(on_host);
  }
  Tensor values(const Shape& shape, bool exact) {
    const Tensor x = memory.uniform(shape, -2.0f, 2.0f);
    if (exact) {
      for (float& value : GuardedMemory::elements(x)) value = std::round(value);
    }
    return x;
  }
  void expect_measured(const std::function<void(Stream&)>& operation) {
    Stream measuring(kGpu, Stream::Mode::kMeasure);
    operation(measuring);
    EXPECT_EQ(measuring.scratch_peak_bytes(), gpu.scratch_peak_bytes());
  }
};

TEST(CudaAddBackProjection, OfF32AgreesWithTheCpu) {
  RW_REQUIRE_GPU();
  for (const Case& c : kCases) {
    for (const float keep : {1.0f, 0.97f}) {
      Rig rig(c, false);
      const auto w = rig.pair(rig.memory.uniform({c.out, c.in}), DType::kF32, keep < 1.0f ? 3 : 0);
      const Tensor n = rig.memory.uniform(rig.host.projected({c.out, c.in}));
      const Tensor gpu_n = rig.device.copy_of(n);
      const WeightChange change{.alpha = -0.3f, .keep = keep};
      add_back_projection(w.host, n, rig.host, change, rig.cpu);
      const auto on_gpu = [&](Stream& stream) {
        add_back_projection(w.gpu, gpu_n, rig.on_gpu, change, stream);
      };
      on_gpu(rig.gpu);
      expect_near(rig.device.to_host(w.gpu, rig.memory), w.host, 2e-5);
      rig.expect_measured(on_gpu);
    }
  }
}

// x rounded to BF16 by half j % 2 of rng.bits(j / 2).
float rounded_stochastically(float x, const Rng& rng, uint64_t j) {
  const uint32_t half = j % 2 == 0 ? rng.bits(j / 2) & 0xffffu : rng.bits(j / 2) >> 16;
  return float_from_bf16(static_cast<uint16_t>((std::bit_cast<uint32_t>(x) + half) >> 16));
}

TEST(CudaAddBackProjection, Bf16IsTheExactSumRoundedByTheBitsOfItsPlace) {
  RW_REQUIRE_GPU();
  constexpr float kAlpha = 0x1p-9f, kKeep = 1.0f - 0x1p-6f;
  const Rng rng(7, "w", 3);
  for (const Case& c : kCases) {
    // Whole, aligned and odd parts of wider matrices, and more than 2^32 elements in front.
    const std::pair<MaskPlace, int64_t> places[] = {
        {{0, c.in}, 0}, {{40, c.in + 16}, 8}, {{5, c.in + 3}, 8}, {{uint64_t{1} << 35, c.in}, 3}};
    for (const auto& [place, extra] : places) {
      Rig rig(c, true);
      const auto w = rig.pair(rig.memory.uniform({c.out, c.in}), DType::kBF16, extra);
      const Tensor n = rig.values(rig.host.projected({c.out, c.in}), true);
      const Tensor gpu_n = rig.device.copy_of(n), sum = rig.memory.zeros({c.out, c.in});
      add_back_projection(sum, n, rig.host, {.alpha = kAlpha}, rig.cpu);
      for (int64_t i = 0; i < sum.numel(); ++i) {
        float& x = sum.data<float>()[i];
        const auto j = place.first + static_cast<uint64_t>(i / c.in * place.width + i % c.in);
        x = rounded_stochastically(std::fma(kKeep, w.host.data<float>()[i], x), rng, j);
      }
      const auto on_gpu = [&, place = place](Stream& stream) {
        add_back_projection(w.gpu, gpu_n, rig.on_gpu,
                            {.alpha = kAlpha, .keep = kKeep, .rng = &rng, .place = place}, stream);
      };
      on_gpu(rig.gpu);
      expect_identical(rig.device.to_host(w.gpu, rig.memory), sum);
      rig.expect_measured(on_gpu);
    }
  }
}

TEST(CudaAddBackProjection, SlicesOfBf16BecomeThoseOfTheWhole) {
  RW_REQUIRE_GPU();
  constexpr int64_t kOut = 96, kIn = 120, kRank = 4;
  Rig rig({kOut, kIn, kRank, 0}, true);
  const Tensor start = rig.memory.uniform({kOut, kIn}), n = rig.values({kRank, kIn}, true);
  const Tensor gpu_n = rig.device.copy_of(n);
  const Tensor whole = rig.device.copy_of(start, DType::kBF16);
  const Tensor parts = rig.device.copy_of(start, DType::kBF16);
  const Rng rng(7, "w", 3);
  const auto update = [&](const Tensor& w, const Tensor& left, const Tensor& inner, int64_t first) {
    const WeightChange change{.alpha = 0x1p-9f,
                              .keep = 1.0f - 0x1p-6f,
                              .rng = &rng,
                              .place = {static_cast<uint64_t>(first), kIn}};
    add_back_projection(w, inner, {.left = left, .right = {}}, change, rig.gpu);
  };
  const Tensor& left = rig.on_gpu.left;
  update(whole, left, gpu_n, 0);
  // Rows as one rank of the tensor axis has them, columns aligned and not.
  update(parts.rows(0, 32), left.rows(0, 32), gpu_n, 0);
  for (const auto& [begin, end] : {std::pair{0, 64}, std::pair{64, 77}, std::pair{77, 120}}) {
    const Tensor inner = rig.memory.poisoned({kRank, end - begin});
    for (int64_t i = 0; i < inner.numel(); ++i) {
      const int64_t width = end - begin;
      inner.data<float>()[i] = n.data<float>()[i / width * kIn + begin + i % width];
    }
    update(parts.rows(32, kOut).columns(begin, end), left.rows(32, kOut), rig.device.copy_of(inner),
           32 * kIn + begin);
  }
  expect_identical(rig.device.to_host(parts, rig.memory), rig.device.to_host(whole, rig.memory));
}

// 64 updates, each far below what BF16 tells apart at 1: by a product, or by decay alone.
TEST(CudaAddBackProjection, UpdatesThatRoundingToNearestLosesArriveInTheMean) {
  RW_REQUIRE_GPU();
  constexpr int64_t kSize = 64, kSteps = 64;
  constexpr float kTiny = 0x1p-12f;
  ASSERT_EQ(bf16_from_float(1.0f + kTiny), bf16_from_float(1.0f));
  ASSERT_EQ(bf16_from_float(1.0f - kTiny), bf16_from_float(1.0f));
  for (const bool decays : {false, true}) {
    Rig rig({kSize, kSize, 0, 0}, true);
    const Tensor ones = rig.memory.uniform({kSize, kSize}, 1.0f, 1.0f);
    const Projection p{.left = rig.device.copy_of(rig.memory.uniform({kSize, 1}, 1.0f, 1.0f)),
                       .right = {}};
    const float alpha = decays ? 0.0f : kTiny, keep = decays ? 1.0f - kTiny : 1.0f;
    const Tensor n = rig.device.copy_of(rig.memory.uniform({1, kSize}, 1.0f, 1.0f));
    const auto trained = [&](std::string_view name) {
      const Tensor w = rig.device.copy_of(ones, DType::kBF16);
      for (uint64_t step = 0; step < kSteps; ++step) {
        const Rng rng(1, name, step);
        add_back_projection(
            w, n, p, {.alpha = alpha, .keep = keep, .rng = &rng, .place = {0, kSize}}, rig.gpu);
      }
      return rig.device.to_host(w, rig.memory);
    };
    const Tensor result = trained("a");
    double mean = 0.0;
    for (const float value : GuardedMemory::elements(result)) mean += value / (kSize * kSize);
    // The standard deviation of the mean is 2e-4 at most.
    const double expected = decays ? std::pow(1.0 - kTiny, kSteps) : 1.0 + kSteps * kTiny;
    EXPECT_NEAR(mean, expected, 1e-3);
    expect_identical(trained("a"), result);
    EXPECT_NE(0, std::memcmp(trained("b").raw(), result.raw(), static_cast<size_t>(result.bytes())))
        << "other random bits, the same result";
  }
}

TEST(CudaAddBackProjection, WhatIsNotFiniteStaysSo) {
  RW_REQUIRE_GPU();
  Rig rig({2, 16, 1, 0}, true);
  const Tensor start = rig.memory.zeros({2, 16}), n = rig.memory.zeros({1, 16});
  start.data<float>()[3] = NAN;
  start.data<float>()[20] = -NAN;
  start.data<float>()[9] = -INFINITY;
  const Tensor w = rig.device.copy_of(start, DType::kBF16);
  const Rng rng(1, "w");
  add_back_projection(w, rig.device.copy_of(n), rig.on_gpu, {.rng = &rng, .place = {0, 16}},
                      rig.gpu);
  const Tensor result = rig.device.to_host(w, rig.memory);
  for (int64_t i = 0; i < result.numel(); ++i) {
    const float value = result.data<float>()[i];
    if (i == 3 || i == 20) {
      EXPECT_TRUE(std::isnan(value)) << i;
    } else {
      EXPECT_EQ(value, i == 9 ? -INFINITY : 0.0f) << i;
    }
  }
}

}  // namespace
}  // namespace rankwise
