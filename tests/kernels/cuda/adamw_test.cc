// SPDX-License-Identifier: Apache-2.0
// AdamW on a GPU against the CPU: the same formula in fp32.
#include "kernels/adamw.h"

#include <gtest/gtest.h>

#include <array>

#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::DeviceMemory;
using testing::expect_near;
using testing::GuardedMemory;

TEST(CudaAdamW, UpdatesListsOfManyTensorsLikeTheCpu) {
  RW_REQUIRE_GPU();
  GuardedMemory host;
  Stream cpu;
  Stream gpu(Device{DeviceKind::kCuda, 0});
  DeviceMemory device(gpu);
  std::vector<AdamWTensors> on_cpu;
  std::vector<AdamWTensors> on_gpu;
  for (int i = 0; i < 200; ++i) {  // more than one launch takes
    const int64_t size = std::array{1, 3, 0, 1000, 2048, 2049, 40001}[i % 7];
    const AdamWTensors t{host.normal({size}), host.normal({size}, 0.1f),
                         host.uniform({size}, 0.0f, 0.1f), host.normal({size})};
    const AdamWTensors copied{device.copy_of(t.p), device.copy_of(t.m), device.copy_of(t.v),
                              device.copy_of(t.g)};
    const int64_t begin = std::min<int64_t>(i % 2, size);  // half of the addresses are misaligned
    const auto behind = [&](const AdamWTensors& all) {
      return AdamWTensors{all.p.rows(begin, size), all.m.rows(begin, size), all.v.rows(begin, size),
                          all.g.rows(begin, size)};
    };
    on_cpu.push_back(behind(t));
    on_gpu.push_back(behind(copied));
  }
  for (const int64_t step : {1, 2, 7}) {
    const AdamWParams params{.lr = 0.01, .weight_decay = 0.1, .step = step};
    adamw(on_cpu, 0.25f, params, cpu);
    adamw(on_gpu, 0.25f, params, gpu);
  }
  for (size_t i = 0; i < on_cpu.size(); ++i) {
    expect_near(device.to_host(on_gpu[i].p, host), on_cpu[i].p, 1e-6);
    expect_near(device.to_host(on_gpu[i].m, host), on_cpu[i].m, 1e-6);
    expect_near(device.to_host(on_gpu[i].v, host), on_cpu[i].v, 1e-6);
  }
}

}  // namespace
}  // namespace rankwise
