// SPDX-License-Identifier: Apache-2.0
// Runs under mpirun with 2 ranks, each with its own GPU.
#include "tests/end_to_end/golden_layouts.h"

namespace rankwise::testing {
namespace {

constexpr const char* kLayouts[] = {"parallel.tensor=1", "parallel.tensor=2",
                                    "parallel.shard_base=data"};

class GpuLayouts : public ::testing::Test {
 protected:
  void SetUp() override {
    RW_REQUIRE_SHARED();
    if (world().size() != 2) GTEST_SKIP() << "needs mpirun -np 2";
    if (gpu_count() < 2) GTEST_SKIP() << "needs two GPUs, finds " << gpu_count();
    device_ = {DeviceKind::kCuda, world().rank()};
    select_device(device_);
  }

  // Layouts against one GPU; `relative` bounds the difference of every loss.
  void expect_same(const std::string& compute, double relative) {
    const GoldenLayouts run;
    const std::vector<std::string> common = {"device=cuda", "model.compute=" + compute,
                                             "train.deterministic=true"};
    const SmallRunResult alone = run.alone(common, device_);
    for (const char* layout : kLayouts) {
      std::vector<std::string> overrides = common;
      overrides.emplace_back(layout);
      run.expect_losses(alone, relative, overrides, device_);
    }
  }

  Device device_;
};

TEST_F(GpuLayouts, EveryLayoutTrainsAsOneGpuInFp32) { expect_same("fp32", 1e-4); }

TEST_F(GpuLayouts, EveryMethodTrainsAsOnOneGpuInFp32) {
  const GoldenLayouts run;
  for (std::vector<std::string> method : other_methods()) {
    method.insert(method.end(), {"device=cuda", "model.compute=fp32", "train.deterministic=true"});
    const SmallRunResult alone = run.alone(method, device_);
    for (const std::string layout : kLayouts) {
      // Weights that are trained are replicated over the data ranks.
      if (trains_weights(method) && layout == "parallel.shard_base=data") continue;
      std::vector<std::string> overrides = method;
      overrides.emplace_back(layout);
      run.expect_losses(alone, 1e-4, overrides, device_);
    }
  }
}

// Rounding to bf16 in another order grows over the steps of this run, as any change of it does.
TEST_F(GpuLayouts, EveryLayoutTrainsAsOneGpuInBf16) { expect_same("bf16", 0.05); }

}  // namespace
}  // namespace rankwise::testing
