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
    const Tensor zeros = host.zeros({size});
    AdamWTensors t{host.normal({size}), host.normal({size}, 0.1f), host.uniform({size}, 0.0f, 0.1f),
                   host.normal({size})};
    AdamWTensors copied{device.copy_of(t.p), device.copy_of(t.m), device.copy_of(t.v),
                        device.copy_of(t.g)};
    const bool scored = i % 3 > 0;
    if (scored) {
      t.importance = {host.copy_of(zeros), host.copy_of(zeros)};
      copied.importance = {device.copy_of(zeros), device.copy_of(zeros)};
    }
    const int64_t begin = std::min<int64_t>(i % 2, size);  // half of the addresses are misaligned
    const auto behind = [&](const AdamWTensors& all) {
      AdamWTensors part{all.p.rows(begin, size), all.m.rows(begin, size), all.v.rows(begin, size),
                        all.g.rows(begin, size)};
      if (scored) {
        part.importance = {all.importance.sensitivity.rows(begin, size),
                           all.importance.uncertainty.rows(begin, size)};
      }
      return part;
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
    const auto& [sensitivity, uncertainty] = on_cpu[i].importance;
    if (!sensitivity.defined()) continue;
    expect_near(device.to_host(on_gpu[i].importance.sensitivity, host), sensitivity, 2e-6);
    expect_near(device.to_host(on_gpu[i].importance.uncertainty, host), uncertainty, 2e-6);
  }
}

}  // namespace
}  // namespace rankwise
