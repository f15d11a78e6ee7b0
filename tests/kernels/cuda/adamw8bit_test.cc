// SPDX-License-Identifier: Apache-2.0
// AdamW with 8-bit moments on a GPU against the CPU. The formula is the same in fp32, but products
// and sums may be fused, so that weights and scales agree within rounding. Codes agree except where
// a moment lies within rounding of a threshold: there they are neighbours.
#include "kernels/adamw8bit.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "kernels/dynamic_map.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::Backends;
using testing::expect_near;
using testing::GuardedMemory;

// Codes differ by at most one, and in at most `most` elements.
void expect_neighbours(const Tensor& actual, const Tensor& expected, int64_t most) {
  int64_t differing = 0;
  for (int64_t i = 0; i < expected.numel(); ++i) {
    const int a = actual.data<uint8_t>()[i];
    const int e = expected.data<uint8_t>()[i];
    ASSERT_LE(std::abs(a - e), 1) << "element " << i << ": " << a << ", expected " << e;
    differing += a != e ? 1 : 0;
  }
  EXPECT_LE(differing, most);
}

AdamW8bitTensors on_gpu(Backends& backends, const AdamW8bitTensors& t) {
  const auto copy = [&](const Tensor& x) { return backends.device.copy_of(x); };
  return {copy(t.p),        copy(t.g),       copy(t.m_codes),
          copy(t.m_absmax), copy(t.v_codes), copy(t.v_absmax)};
}

// The tensors without their first `skipped` elements, so that addresses are not aligned; the scales
// are those of a tensor of that size.
AdamW8bitTensors behind(const AdamW8bitTensors& t, int64_t skipped) {
  const int64_t size = t.p.numel();
  const int64_t blocks = adamw8bit_blocks(size - skipped);
  return {t.p.rows(skipped, size),    t.g.rows(skipped, size),       t.m_codes.rows(skipped, size),
          t.m_absmax.rows(0, blocks), t.v_codes.rows(skipped, size), t.v_absmax.rows(0, blocks)};
}

AdamW8bitTensors random_tensors(GuardedMemory& memory, int64_t size) {
  const Shape blocks{adamw8bit_blocks(size)};
  AdamW8bitTensors t{memory.normal({size}),
                     memory.normal({size}),
                     memory.zeros(DType::kU8, {size}),
                     memory.uniform(blocks, 0.1f, 0.5f),
                     memory.zeros(DType::kU8, {size}),
                     memory.uniform(blocks, 0.1f, 0.5f)};
  for (int64_t i = 0; i < size; ++i) {
    t.m_codes.data<uint8_t>()[i] = static_cast<uint8_t>(i * 37 % 256);
    t.v_codes.data<uint8_t>()[i] = static_cast<uint8_t>(128 + i * 91 % 128);
  }
  return t;
}

TEST(CudaAdamW8bit, UpdatesListsOfManyTensorsLikeTheCpu) {
  RW_REQUIRE_GPU();
  Backends backends;
  std::vector<AdamW8bitTensors> cpu;
  std::vector<AdamW8bitTensors> gpu;
  for (int i = 0; i < 200; ++i) {  // more than one launch takes
    const int64_t size = std::array{1, 3, 0, 255, 256, 257, 4096, 8192, 8193, 40001}[i % 10];
    const AdamW8bitTensors t = random_tensors(backends.memory, size);
    const int64_t skipped = std::min<int64_t>(i / 10 % 2, size);
    gpu.push_back(behind(on_gpu(backends, t), skipped));
    cpu.push_back(behind(t, skipped));
  }
  const AdamWParams params{.lr = 0.01, .weight_decay = 0.1, .step = 3};
  adamw8bit(cpu, 0.25f, params, backends.cpu);
  adamw8bit(gpu, 0.25f, params, backends.gpu);
  const auto host = [&](const Tensor& x) { return backends.device.to_host(x, backends.memory); };
  for (size_t i = 0; i < cpu.size(); ++i) {
    expect_near(host(gpu[i].p), cpu[i].p, 1e-6);
    expect_near(host(gpu[i].m_absmax), cpu[i].m_absmax, 1e-6);
    expect_near(host(gpu[i].v_absmax), cpu[i].v_absmax, 1e-6);
    const int64_t most = 1 + cpu[i].p.numel() / 1000;
    expect_neighbours(host(gpu[i].m_codes), cpu[i].m_codes, most);
    expect_neighbours(host(gpu[i].v_codes), cpu[i].v_codes, most);
  }
}

// With betas 0, m = g and v = g^2 in both, and scales of 1: nothing is left to rounding, and the
// codes of all thresholds, their neighbours and special numbers are equal.
TEST(CudaAdamW8bit, CodesOfExactMomentsAreThoseOfTheCpu) {
  RW_REQUIRE_GPU();
  Backends backends;
  std::vector<float> gradients;
  const auto add = [&](float x) {
    if (gradients.size() % 256 == 0) gradients.push_back(1.0f);
    gradients.push_back(x);
  };
  for (const auto& map : {kSignedDynamicMap, kUnsignedDynamicMap}) {
    for (int entry = 1; entry < 256; ++entry) {
      const float middle = (map[entry - 1] + map[entry]) * 0.5f;
      const float root = std::sqrt(std::abs(middle));
      for (const float x : {middle, root}) {
        for (const float near : {std::nextafter(x, -2.0f), x, std::nextafter(x, 2.0f)}) add(near);
      }
    }
  }
  for (const float x : {0.0f, -0.0f, 1e-30f, -1e-30f, 1e-44f, -1e-44f, NAN, INFINITY}) add(x);
  const Shape shape{static_cast<int64_t>(gradients.size())};
  GuardedMemory& memory = backends.memory;
  AdamW8bitTensors cpu = random_tensors(memory, shape.numel());
  cpu.g = memory.of<float>(shape, gradients);
  const AdamW8bitTensors gpu = on_gpu(backends, cpu);
  const AdamWParams params{.beta1 = 0.0, .beta2 = 0.0};
  adamw8bit(std::array{cpu}, 1.0f, params, backends.cpu);
  adamw8bit(std::array{gpu}, 1.0f, params, backends.gpu);
  const auto host = [&](const Tensor& x) { return backends.device.to_host(x, memory); };
  testing::expect_identical(host(gpu.m_codes), cpu.m_codes);
  testing::expect_identical(host(gpu.v_codes), cpu.v_codes);
  testing::expect_identical(host(gpu.m_absmax), cpu.m_absmax);
  testing::expect_identical(host(gpu.v_absmax), cpu.v_absmax);
}

TEST(CudaAdamW8bit, RepeatedRunsGiveTheSameBits) {
  RW_REQUIRE_GPU();
  Backends backends;
  const AdamW8bitTensors start = random_tensors(backends.memory, 100'000);
  const AdamW8bitTensors runs[] = {on_gpu(backends, start), on_gpu(backends, start)};
  for (const AdamW8bitTensors& run : runs) {
    for (int64_t step = 1; step <= 5; ++step) {
      adamw8bit(std::array{run}, 0.5f, {.lr = 0.01, .step = step}, backends.gpu);
    }
  }
  const auto host = [&](const Tensor& x) { return backends.device.to_host(x, backends.memory); };
  testing::expect_identical(host(runs[1].p), host(runs[0].p));
  testing::expect_identical(host(runs[1].m_codes), host(runs[0].m_codes));
  testing::expect_identical(host(runs[1].v_codes), host(runs[0].v_codes));
  testing::expect_identical(host(runs[1].v_absmax), host(runs[0].v_absmax));
}

}  // namespace
}  // namespace rankwise
