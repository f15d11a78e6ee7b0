// SPDX-License-Identifier: Apache-2.0
// The Llama-shaped families against transformers and PEFT: logits, loss, gradients, training runs.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "model/merged_weights.h"
#include "tests/model/golden_models.h"

namespace rankwise {
namespace {

using testing::GoldenPlace;
using testing::max_abs_difference;
using testing::PeftRun;
using testing::TinyModel;
using testing::TrainingRig;

const GoldenPlace kCpu;

class LlamaParity : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { RW_REQUIRE_SHARED(); }
};

INSTANTIATE_TEST_SUITE_P(Tiny, LlamaParity, ::testing::Values("llama", "llama3_rope", "mistral"),
                         [](const auto& tested) { return tested.param; });

TEST_P(LlamaParity, LogitsAndLossEqualTransformers) {
  TinyModel(GetParam()).expect_logits_and_loss(kCpu);
}

TEST_P(LlamaParity, GreedyTokensEqualTransformers) {
  TinyModel(GetParam()).expect_greedy_tokens(kCpu);
}

TEST(LlamaFullTraining, EveryGradientEqualsAutograd) {
  RW_REQUIRE_SHARED();
  TinyModel("llama").expect_every_gradient(kCpu);
}

TEST_P(LlamaParity, LoraTrainsAsInPeft) {
  PeftRun run(GetParam(), "lora", kCpu);
  ASSERT_EQ(run.rig.trained().size(), 28u);
  run.expect_first_gradients();
  run.expect_training();
  run.expect_final_adapter();
}

// A merged model is the model with another weight source.
class MergedSource : public WeightSource {
 public:
  explicit MergedSource(std::vector<NamedTensor> tensors) : tensors_(std::move(tensors)) {}
  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const NamedTensor& named : tensors_) out.push_back(named.name);
    return out;
  }
  bool contains(std::string_view name) const override {
    return std::ranges::any_of(tensors_, [&](const auto& named) { return named.name == name; });
  }
  Shape shape(std::string_view name) const override { return at(name).shape(); }
  DType dtype(std::string_view) const override { return DType::kF32; }
  void read(std::string_view name, const Tensor& out) const override {
    std::copy_n(at(name).data<float>(), out.numel(), out.data<float>());
  }
  void read_rows(std::string_view name, int64_t begin, int64_t end,
                 const Tensor& out) const override {
    std::copy_n(at(name).rows(begin, end).data<float>(), out.numel(), out.data<float>());
  }
  void read_elements(std::string_view name, int64_t first, const Tensor& out) const override {
    std::copy_n(at(name).data<float>() + first, out.numel(), out.data<float>());
  }
  std::optional<QuantizedTensor> read_quantized(std::string_view, const MatrixSlice&, Arena&,
                                                std::string_view) const override {
    return std::nullopt;
  }
  std::string description() const override { return "merged"; }
  const Tensor& at(std::string_view name) const {
    return std::ranges::find_if(tensors_, [&](const auto& named) { return named.name == name; })
        ->tensor;
  }

 private:
  std::vector<NamedTensor> tensors_;
};

void expect_merge(const std::string& model, const std::string& method) {
  PeftRun run(model, method, kCpu);
  load_peft_weights(testing::golden_folder(fmt::format("tiny/{}/{}/adapter_final", model, method)),
                    run.rig.model().adapters(), run.rig.stream());
  const MergedSource merged(
      merged_weights(run.rig.model(), nullptr, run.rig.arena(), run.rig.stream()));
  for (const SafetensorsEntry& entry : run.expected.tensors.entries()) {
    if (!entry.name.starts_with("merged.")) continue;
    const Tensor weight = run.expected.f32(entry.name);
    EXPECT_LT(max_abs_difference(merged.at(entry.name.substr(7)), weight), 1e-5) << entry.name;
  }
  TrainingRig rig(run.tiny.config, merged, {});
  EXPECT_LT(max_abs_difference(rig.logits(run.tiny.batch()), run.expected.f32("merged_logits")),
            1e-3);
}

TEST_P(LlamaParity, MergedModelEqualsPeftsMerge) { expect_merge(GetParam(), "lora"); }

TEST(LlamaLoraVariants, RsLoraTrainsAsInPeft) {
  RW_REQUIRE_SHARED();
  PeftRun run("llama", "rslora", kCpu);
  ASSERT_TRUE(run.peft.use_rslora);
  run.expect_first_gradients();
  run.expect_training();
}

TEST(LlamaLoraVariants, LoraPlusTrainsAsInPeft) {
  RW_REQUIRE_SHARED();
  PeftRun run("llama", "loraplus", kCpu);
  ASSERT_EQ(run.expected.values["opt"]["loraplus_ratio"].get<double>(), 16.0);
  run.expect_training();
  run.expect_final_adapter();
}

TEST(LlamaLoraVariants, DoraTrainsAndMergesAsInPeft) {
  RW_REQUIRE_SHARED();
  PeftRun run("llama", "dora", kCpu);
  ASSERT_TRUE(run.peft.use_dora);
  ASSERT_EQ(run.rig.trained().size(), 42u);
  run.expect_first_gradients();
  run.expect_training();
  run.expect_final_adapter();
  expect_merge("llama", "dora");
}

}  // namespace
}  // namespace rankwise
