// SPDX-License-Identifier: Apache-2.0
// The Llama-shaped families against transformers and PEFT: logits, loss, gradients, training runs.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "model/adapters/peft_folder.h"
#include "model/generate.h"
#include "model/merged_weights.h"
#include "tests/model/training_rig.h"
#include "tests/support/golden.h"

namespace rankwise {
namespace {

using testing::load_f32;
using testing::load_i64;
using testing::max_abs_difference;
using testing::relative_l2;
using testing::RigOptions;
using testing::TrainingRig;

std::string golden_folder(const std::string& path) {
  return testing::shared_folder() + "/golden/" + path;
}

// Rows [first, first + count) of ids and labels (..., T), each one document.
MicroBatch batch_of(const Tensor& ids, const Tensor& labels, int64_t first, int64_t count) {
  const int64_t length = ids.dim(-1);
  MicroBatch batch;
  for (int64_t row = first; row < first + count; ++row) {
    Sample sample;
    for (int64_t t = row * length; t < (row + 1) * length; ++t) {
      sample.input_ids.push_back(static_cast<int32_t>(ids.data<int64_t>()[t]));
      sample.labels.push_back(static_cast<int32_t>(labels.data<int64_t>()[t]));
    }
    append_document(batch, sample);
  }
  return batch;
}

std::vector<int32_t> ids_of(const Tensor& tensor) {
  const int64_t* ids = tensor.data<int64_t>();
  return {ids, ids + tensor.numel()};
}

// PEFT's name in memory carries the adapter's: "base_model.model.X.lora_A.default.weight".
std::string in_memory_name(const std::string& name) {
  const std::string suffix = ".weight";
  return "base_model.model." + name.substr(0, name.size() - suffix.size()) + ".default" + suffix;
}

RigOptions rig_for(const PeftConfig& peft) {
  RigOptions options;
  options.lora = [peft](const LinearSite& site) -> std::optional<LoraOptions> {
    if (!peft.targets(site.module)) return std::nullopt;
    return LoraOptions{peft.rank_of(site.module), peft.alpha_of(site.module), peft.use_rslora,
                       static_cast<float>(peft.lora_dropout)};
  };
  return options;
}

struct Expected {
  explicit Expected(const std::string& folder)
      : tensors(golden_folder(folder) + "/expected.safetensors"),
        values(read_json_file(golden_folder(folder) + "/expected.json")) {}

  Tensor f32(const std::string& name) { return load_f32(tensors, name, arena); }
  Tensor i64(const std::string& name) { return load_i64(tensors, name, arena); }
  bool has(const std::string& name) const { return tensors.find(name) != nullptr; }

  SafetensorsFile tensors;
  Json values;
  Arena arena;
};

struct TinyModel {
  explicit TinyModel(const std::string& name)
      : config(load_model_config(golden_folder("tiny/" + name))),
        weights(open_weights(golden_folder("tiny/" + name))) {}
  ModelConfig config;
  std::unique_ptr<WeightSource> weights;
};

class LlamaParity : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { RW_REQUIRE_SHARED(); }
};

INSTANTIATE_TEST_SUITE_P(Tiny, LlamaParity, ::testing::Values("llama", "llama3_rope", "mistral"),
                         [](const auto& tested) { return tested.param; });

TEST_P(LlamaParity, LogitsAndLossEqualTransformers) {
  TinyModel tiny(GetParam());
  Expected expected("tiny/" + GetParam());
  TrainingRig rig(tiny.config, *tiny.weights, {});
  const MicroBatch batch = batch_of(expected.i64("input_ids"), expected.i64("labels"), 0, 2);
  EXPECT_LT(max_abs_difference(rig.logits(batch), expected.f32("logits")), 2e-4);
  const double loss = expected.values["loss"].get<double>();
  EXPECT_NEAR(rig.evaluate(batch).mean(), loss, 1e-5 * loss);
}

TEST_P(LlamaParity, GreedyTokensEqualTransformers) {
  TinyModel tiny(GetParam());
  Expected expected("tiny/" + GetParam());
  TrainingRig rig(tiny.config, *tiny.weights, {});
  const std::vector<int32_t> all = ids_of(expected.i64("greedy"));
  const std::vector<int32_t> prompt(all.begin(), all.begin() + 16);
  const auto produced =
      generate(rig.model(), prompt, {.max_new_tokens = 24}, rig.arena(), rig.stream());
  EXPECT_EQ(produced, std::vector<int32_t>(all.begin() + 16, all.end()));
}

TEST(LlamaFullTraining, EveryGradientEqualsAutograd) {
  RW_REQUIRE_SHARED();
  TinyModel tiny("llama");
  Expected expected("tiny/llama");
  TrainingRig rig(tiny.config, *tiny.weights, testing::with_all_trained());
  rig.accumulate({batch_of(expected.i64("input_ids"), expected.i64("labels"), 0, 2)});
  ASSERT_EQ(rig.trained().size(), 21u);
  for (const Parameter* parameter : rig.trained()) {
    EXPECT_LT(relative_l2(parameter->gradient, expected.f32("grad." + parameter->name)), 1e-3)
        << parameter->name;
  }
}

// One PEFT run: first logits and gradients, the losses of every step, the final adapter.
struct LoraRun {
  LoraRun(const std::string& model, const std::string& method)
      : tiny(model),
        expected("tiny/" + model + "/" + method),
        init(golden_folder("tiny/" + model + "/" + method + "/adapter_init")),
        peft(read_peft_config(init)),
        rig(tiny.config, *tiny.weights, rig_for(peft)) {
    load_peft_weights(init, rig.model().adapters());
  }

  void expect_first_gradients() {
    const MicroBatch batch = batch_of(expected.i64("input_ids"), expected.i64("labels"), 0, 2);
    EXPECT_LT(max_abs_difference(rig.logits(batch), expected.f32("first_logits")), 2e-4);
    const double loss = expected.values["first_loss"].get<double>();
    EXPECT_NEAR(rig.accumulate({batch}).mean(), loss, 1e-5 * loss);
    for (const Parameter* parameter : rig.trained()) {
      const Tensor gradient = expected.f32("grad." + in_memory_name(parameter->name));
      EXPECT_LT(relative_l2(parameter->gradient, gradient), 1e-3) << parameter->name;
    }
  }

  void expect_training() {
    const Json& opt = expected.values["opt"];
    rig.start_adamw(opt["wd"].get<double>(), opt.value("loraplus_ratio", 1.0));
    const Tensor ids = expected.i64("train_ids");  // (steps, B, T)
    const Tensor labels = expected.i64("train_labels");
    const std::vector<double> losses = expected.values["losses"].get<std::vector<double>>();
    const std::vector<double> norms = expected.values["grad_norms"].get<std::vector<double>>();
    ASSERT_EQ(static_cast<int64_t>(losses.size()), ids.dim(0));
    for (size_t step = 0; step < losses.size(); ++step) {
      const int64_t rows = ids.dim(1);
      const MicroBatch batch = batch_of(ids, labels, static_cast<int64_t>(step) * rows, rows);
      const auto done =
          rig.train_step(batch, opt["lr"].get<double>(), opt["clip"].get<double>(), step);
      EXPECT_NEAR(done.loss, losses[step], 1e-4 * losses[step]) << "step " << step;
      EXPECT_NEAR(done.gradient_norm, norms[step], 1e-3 * norms[step]) << "step " << step;
    }
  }

  void expect_final_adapter() {
    for (const Parameter* parameter : rig.trained()) {
      const Tensor final = expected.f32("final." + in_memory_name(parameter->name));
      EXPECT_LT(relative_l2(parameter->dense(), final), 1e-3) << parameter->name;
    }
    const MicroBatch batch = batch_of(expected.i64("input_ids"), expected.i64("labels"), 0, 2);
    EXPECT_LT(max_abs_difference(rig.logits(batch), expected.f32("final_logits")), 1e-3);
  }

  TinyModel tiny;
  Expected expected;
  std::string init;
  PeftConfig peft;
  TrainingRig rig;
};

TEST_P(LlamaParity, LoraTrainsAsInPeft) {
  LoraRun run(GetParam(), "lora");
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
  std::optional<QuantizedTensor> read_quantized(std::string_view, Arena&,
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

TEST_P(LlamaParity, MergedModelEqualsPeftsMerge) {
  LoraRun run(GetParam(), "lora");
  load_peft_weights(golden_folder("tiny/" + GetParam() + "/lora/adapter_final"),
                    run.rig.model().adapters());
  const MergedSource merged(
      merged_weights(run.rig.model(), nullptr, run.rig.arena(), run.rig.stream()));
  for (const SafetensorsEntry& entry : run.expected.tensors.entries()) {
    if (!entry.name.starts_with("merged.")) continue;
    const Tensor weight = run.expected.f32(entry.name);
    EXPECT_LT(max_abs_difference(merged.at(entry.name.substr(7)), weight), 1e-5) << entry.name;
  }
  TrainingRig rig(run.tiny.config, merged, {});
  const MicroBatch batch =
      batch_of(run.expected.i64("input_ids"), run.expected.i64("labels"), 0, 2);
  EXPECT_LT(max_abs_difference(rig.logits(batch), run.expected.f32("merged_logits")), 1e-3);
}

TEST(LlamaLoraVariants, RsLoraTrainsAsInPeft) {
  RW_REQUIRE_SHARED();
  LoraRun run("llama", "rslora");
  ASSERT_TRUE(run.peft.use_rslora);
  run.expect_first_gradients();
  run.expect_training();
}

TEST(LlamaLoraVariants, LoraPlusTrainsAsInPeft) {
  RW_REQUIRE_SHARED();
  LoraRun run("llama", "loraplus");
  ASSERT_EQ(run.expected.values["opt"]["loraplus_ratio"].get<double>(), 16.0);
  run.expect_training();
  run.expect_final_adapter();
}

}  // namespace
}  // namespace rankwise
