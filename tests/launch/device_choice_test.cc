// SPDX-License-Identifier: Apache-2.0
#include "launch/device_choice.h"

#include <gtest/gtest.h>

#include <sstream>

#include "launch/training_run.h"
#include "tests/support/error_of.h"

namespace rankwise {
namespace {

using testing::error_of;

constexpr Device kGpu{DeviceKind::kCuda, 0};

TEST(DeviceChoice, AutoTakesTheGpuOfOneRankWhenThereIsOne) {
  EXPECT_EQ(choose_device(DeviceChoice::kAuto, 1), gpu_count() > 0 ? kGpu : Device{});
  EXPECT_EQ(choose_device(DeviceChoice::kAuto, 2), Device{});
  EXPECT_EQ(choose_device(DeviceChoice::kCpu, 1), Device{});
}

TEST(DeviceChoice, CudaIsRefusedWithWhatIsMissing) {
  const std::string several = error_of<ConfigError>([] { choose_device(DeviceChoice::kCuda, 2); });
  RW_EXPECT_HAS(several, (kHasCuda ? "device: cuda runs on one rank in this version"
                                   : "device: cuda is not in this build"));
  if (gpu_count() > 0) {
    EXPECT_EQ(choose_device(DeviceChoice::kCuda, 1), kGpu);
  } else {
    const std::string none = error_of<ConfigError>([] { choose_device(DeviceChoice::kCuda, 1); });
    RW_EXPECT_HAS(none, (kHasCuda ? "device: cuda finds no GPU" : "device: cuda is not in this"));
  }
}

TEST(DeviceChoice, NumberTypeFollowsTheDeviceAndTheCpuHasNoBf16) {
  EXPECT_EQ(choose_compute(ComputeType::kAuto, Device{}), DType::kF32);
  EXPECT_EQ(choose_compute(ComputeType::kAuto, kGpu), DType::kBF16);
  EXPECT_EQ(choose_compute(ComputeType::kFp32, kGpu), DType::kF32);
  EXPECT_EQ(choose_compute(ComputeType::kBf16, kGpu), DType::kBF16);
  EXPECT_EQ(error_of<ConfigError>([] { choose_compute(ComputeType::kBf16, Device{}); }),
            "model.compute: bf16 needs device: cuda; the CPU computes in fp32 only");
}

TEST(DeviceChoice, TrainingRefusesBeforeItOpensTheModel) {
  const auto refusal = [](const std::string& option) {
    const TrainConfig config = parse_train_config(
        "model: {path: absent}\ndata: {train: [{path: absent}]}\ntrain: {steps: 1}\n", "run.yaml",
        {option, option == "device=cuda" ? "model.compute=auto" : "device=cpu"});
    return error_of<ConfigError>([&] {
      run_ranks_as_threads(2, [&](Communicator& world) {
        std::ostringstream out;
        VerbContext context{.world = world, .local_size = 2, .host = "here", .out = out};
        TrainingRun run(config, context);
      });
    });
  };
  RW_EXPECT_HAS(refusal("device=cuda"), "device: cuda");
  RW_EXPECT_HAS(refusal("model.compute=bf16"), "model.compute: bf16");
}

}  // namespace
}  // namespace rankwise
