// SPDX-License-Identifier: Apache-2.0
// A pretrained model on real data against transformers and PEFT: text, LoRA and 4-bit LoRA
// training.
#include <gtest/gtest.h>

#include "tests/model/golden_models.h"

namespace rankwise {
namespace {

using testing::GoldenPlace;
using testing::StoriesModel;

const GoldenPlace kCpu;

TEST(Stories, LogitsEqualTransformers) {
  RW_REQUIRE_SHARED();
  StoriesModel().expect_logits(kCpu);
}

TEST(Stories, GreedyTextEqualsTransformers) {
  RW_REQUIRE_SHARED();
  StoriesModel().expect_greedy_text(kCpu);
}

TEST(Stories, LoraTrainsAsInPeft) {
  RW_REQUIRE_SHARED();
  StoriesModel().expect_lora_training(kCpu);
}

TEST(Stories, LoraTrainsOnDoublyQuantisedNf4) {
  RW_REQUIRE_SHARED();
  StoriesModel().expect_qlora_training(kCpu);
}

}  // namespace
}  // namespace rankwise
