// SPDX-License-Identifier: Apache-2.0
// Whole models on the GPU in fp32 against transformers and PEFT, by the checks of the CPU.
#include <gtest/gtest.h>

#include "tests/model/adalora_run.h"
#include "tests/model/golden_models.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::GoldenPlace;
using testing::PeftRun;
using testing::StoriesModel;
using testing::TinyModel;

const GoldenPlace kGpu = {{DeviceKind::kCuda, 0}, 3.0};

class GpuGoldenParity : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    RW_REQUIRE_GPU();
    RW_REQUIRE_SHARED();
  }
};

INSTANTIATE_TEST_SUITE_P(Tiny, GpuGoldenParity,
                         ::testing::Values("llama", "llama3_rope", "mistral"),
                         [](const auto& tested) { return tested.param; });

TEST_P(GpuGoldenParity, LogitsAndLossEqualTransformers) {
  TinyModel(GetParam()).expect_logits_and_loss(kGpu);
}

TEST_P(GpuGoldenParity, GreedyTokensEqualTransformers) {
  TinyModel(GetParam()).expect_greedy_tokens(kGpu);
}

TEST_P(GpuGoldenParity, LoraTrainsAsInPeft) {
  PeftRun run(GetParam(), "lora", kGpu);
  run.expect_first_gradients();
  run.expect_training();
  run.expect_final_adapter();
}

TEST(GpuGoldenVariants, EveryGradientEqualsAutograd) {
  RW_REQUIRE_GPU();
  RW_REQUIRE_SHARED();
  TinyModel("llama").expect_every_gradient(kGpu);
}

TEST(GpuGoldenVariants, DoraTrainsAsInPeft) {
  RW_REQUIRE_GPU();
  RW_REQUIRE_SHARED();
  PeftRun run("llama", "dora", kGpu);
  run.expect_first_gradients();
  run.expect_training();
  run.expect_final_adapter();
}

TEST(GpuGoldenVariants, AdaLoraTrainsAsInPeft) {
  RW_REQUIRE_GPU();
  RW_REQUIRE_SHARED();
  testing::expect_tiny_adalora(kGpu);
  testing::expect_stories_adalora(kGpu);
}

TEST(GpuGoldenVariants, RsLoraAndLoraPlusTrainAsInPeft) {
  RW_REQUIRE_GPU();
  RW_REQUIRE_SHARED();
  for (const char* method : {"rslora", "loraplus"}) {
    SCOPED_TRACE(method);
    PeftRun run("llama", method, kGpu);
    run.expect_training();
  }
}

TEST(GpuStories, LogitsAndGreedyTextEqualTransformers) {
  RW_REQUIRE_GPU();
  RW_REQUIRE_SHARED();
  StoriesModel().expect_logits(kGpu);
  StoriesModel().expect_greedy_text(kGpu);
}

TEST(GpuStories, LoraTrainsAsInPeft) {
  RW_REQUIRE_GPU();
  RW_REQUIRE_SHARED();
  StoriesModel().expect_lora_training(kGpu);
}

TEST(GpuStories, LoraTrainsOnDoublyQuantisedNf4) {
  RW_REQUIRE_GPU();
  RW_REQUIRE_SHARED();
  StoriesModel().expect_qlora_training(kGpu);
}

}  // namespace
}  // namespace rankwise
