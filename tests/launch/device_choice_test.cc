// SPDX-License-Identifier: Apache-2.0
#include "launch/device_choice.h"

#include <gtest/gtest.h>

#include <sstream>

#include "launch/training_run.h"
#include "parallel/nccl_communicator.h"
#include "tests/support/error_of.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using testing::error_of;

constexpr Device kGpu{DeviceKind::kCuda, 0};

const RankGpu kFirst{"tesla", "NVIDIA H200", "a0", ""};
const RankGpu kSecond{"tesla", "NVIDIA H200", "b1", ""};
const RankGpu kNone{"curie", "", "", "finds no GPU here"};

TEST(DeviceChoice, AutoTakesTheGpuOfOneRankWhenThereIsOne) {
  const auto alone = make_single_communicator();
  EXPECT_EQ(choose_device(DeviceChoice::kAuto, *alone, 0), gpu_count() > 0 ? kGpu : Device{});
  EXPECT_EQ(choose_device(DeviceChoice::kCpu, *alone, 0), Device{});
}

TEST(DeviceChoice, CudaIsRefusedWithWhatIsMissing) {
  const auto alone = make_single_communicator();
  if (gpu_count() > 0) {
    EXPECT_EQ(choose_device(DeviceChoice::kCuda, *alone, 0), kGpu);
  } else {
    const std::string none =
        error_of<ConfigError>([&] { choose_device(DeviceChoice::kCuda, *alone, 0); });
    RW_EXPECT_HAS(none, (kHasCuda ? "device: cuda finds no GPU" : "device: cuda is not in this"));
  }
}

TEST(DeviceChoice, EveryRankHasAGpuOfItsOwn) {
  RankGpu other_host = kFirst;  // virtual machines may tell the same number
  other_host.host = "curie";
  for (DeviceChoice choice : {DeviceChoice::kAuto, DeviceChoice::kCuda}) {
    EXPECT_TRUE(ranks_use_gpus(choice, {kFirst}));
    EXPECT_TRUE(ranks_use_gpus(choice, {kFirst, kSecond, other_host}));
    const std::string shared = error_of<ConfigError>([&] {
      ranks_use_gpus(choice, {kFirst, kSecond, kFirst});
    });
    RW_EXPECT_HAS(shared, "device: ranks 0 and 2 would share one GPU (NVIDIA H200) of host tesla");
    RW_EXPECT_HAS(shared, "or set device: cpu");
  }
}

TEST(DeviceChoice, RanksWithAndWithoutGpuDoNotMix) {
  EXPECT_FALSE(ranks_use_gpus(DeviceChoice::kAuto, {kNone, kNone}));
  EXPECT_FALSE(ranks_use_gpus(DeviceChoice::kCpu, {kFirst, kNone}));
  EXPECT_EQ(error_of<ConfigError>([] {
              ranks_use_gpus(DeviceChoice::kCuda, {kNone, kNone});
            }),
            "device: cuda finds no GPU here");
  for (DeviceChoice choice : {DeviceChoice::kAuto, DeviceChoice::kCuda}) {
    const std::string mixed = error_of<ConfigError>([&] {
      ranks_use_gpus(choice, {kFirst, kNone});
    });
    RW_EXPECT_HAS(mixed, "rank 0 on host tesla has a GPU, rank 1 on host curie has none");
    RW_EXPECT_HAS(mixed, "finds no GPU here");
  }
}

// Threads of one process have the same GPUs: with one GPU two ranks would share it.
TEST(DeviceChoice, AllRanksChooseTheSame) {
  run_ranks_as_threads(2, [](Communicator& world) {
    const auto choose = [&] { return choose_device(DeviceChoice::kAuto, world, world.rank()); };
    if (!kHasNccl || gpu_count() == 0) {
      EXPECT_EQ(choose(), Device{});
    } else if (gpu_count() == 1) {
      RW_EXPECT_HAS(error_of<ConfigError>(choose), "ranks 0 and 1 would share one GPU");
    } else {
      EXPECT_EQ(choose(), (Device{DeviceKind::kCuda, world.rank()}));
    }
  });
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
  RW_EXPECT_HAS(refusal("device=cuda"), "device: ");
  RW_EXPECT_HAS(refusal("model.compute=bf16"), "model.compute: bf16");
}

}  // namespace
}  // namespace rankwise
