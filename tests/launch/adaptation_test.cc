// SPDX-License-Identifier: Apache-2.0
#include "launch/adaptation.h"

#include <gtest/gtest.h>

#include "tests/launch/tiny_model.h"

namespace rankwise {
namespace {

using testing::error_of;
using testing::ScratchFolder;
using testing::tiny_config;

TrainConfig config_with(const std::string& rules) {
  return parse_train_config(
      "model: {path: m}\ndata: {train: [{path: d, format: tokens}]}\ntrain: {steps: 1}\nadapt: " +
          rules,
      "test", {});
}

std::string refusal(const std::string& rules, const ModelConfig& model = tiny_config()) {
  return error_of<ConfigError>([&] {
    const TrainConfig config = config_with(rules);
    Adaptation(config, model);
  });
}

TEST(Adaptation, RulesThatCoverNothingAreRefused) {
  RW_EXPECT_HAS(refusal("[{match: all-linear}, {match: '*.q_proj', method: full}]"),
                "adapt.1.match");
  RW_EXPECT_HAS(refusal("[{match: nothing.here}]"), "adapt.0.match");
  RW_EXPECT_HAS(refusal("[{match: '*', method: frozen}]"), "nothing would be trained");
  RW_EXPECT_HAS(refusal("[{match: lm_head}]"), "linear layers of blocks only");
}

TEST(Adaptation, TheFirstRuleThatMatchesWins) {
  const TrainConfig config = config_with("[{match: '*.q_proj'}, {match: '*', method: full}]");
  const Adaptation adaptation(config, tiny_config());
  Arena arena;
  Stream stream;
  const ModelPlan plan = adaptation.plan(arena, stream);
  EXPECT_FALSE(plan.is_trained("model.layers.0.self_attn.q_proj.weight"));
  EXPECT_TRUE(plan.is_trained("model.layers.0.self_attn.k_proj.weight"));
  EXPECT_TRUE(plan.is_trained("model.norm.weight"));
}

TEST(Adaptation, TheBiasOfAnAdaptedLayerFallsUnderNoLaterRule) {
  ModelConfig model = tiny_config();
  model.attention_bias = true;
  RW_EXPECT_HAS(refusal("[{match: '*.q_proj'}, {match: '*.q_proj', method: full}]", model),
                "adapt.1.match");
}

TEST(Adaptation, AStartingPointMustFitItsRule) {
  const ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter");  // q_proj, down_proj
  RW_EXPECT_HAS(refusal("[{match: '*.k_proj', from: " + adapter + "}]"), "adapt.0.from");
  const TrainConfig config = config_with("[{match: all-linear, from: " + adapter + "}]");
  EXPECT_TRUE(Adaptation(config, tiny_config()).has_adapters());
}

TEST(Adaptation, OneFolderCannotHoldTwoScales) {
  const ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter");  // without rslora
  const std::string from = "{match: '*.q_proj', from: " + adapter + "}";
  RW_EXPECT_HAS(refusal("[" + from + ", {match: '*.k_proj', rslora: true}]"), "rslora");
  const TrainConfig config = config_with("[" + from + ", {match: '*.k_proj'}]");
  EXPECT_NO_THROW(Adaptation(config, tiny_config()));
}

TEST(Adaptation, OneFolderHoldsOneMethod) {
  RW_EXPECT_HAS(refusal("[{match: '*.q_proj', method: dora}, {match: '*.k_proj'}]"),
                "dora and lora cannot share one PEFT folder");
  RW_EXPECT_HAS(refusal("[{match: '*.q_proj', method: adalora}, "
                        "{match: '*.k_proj', method: adalora, adalora: {init_rank: 10}}]"),
                "their alpha and adalora settings must be equal");
  const TrainConfig config =
      config_with("[{match: '*.q_proj', method: adalora}, {match: '*.k_proj', method: adalora}]");
  const Adaptation adaptation(config, tiny_config());
  ASSERT_NE(adaptation.adalora(), nullptr);
  EXPECT_EQ(adaptation.adalora()->init_rank, 12);
}

TEST(Adaptation, TheMethodOfAStartingPointIsThatOfItsRule) {
  const ScratchFolder scratch;
  const std::string adapter = testing::write_tiny_adapter(scratch, "adapter");
  RW_EXPECT_HAS(refusal("[{method: dora, from: " + adapter + "}]"),
                "holds an adapter of method lora, the rule has method dora");
}

TEST(Adaptation, NothingThatTrainsIsQuantised) {
  // (model.quant is nf4 unless it is given)
  EXPECT_EQ(refusal("[{method: galore}]"),
            "model.quant: nf4 is for frozen weights, as codes take no updates, but method galore "
            "under adapt trains every linear layer; set model.quant: none, or freeze layers or "
            "give them adapters");
  RW_EXPECT_HAS(refusal("[{match: '*', method: full}]"), "method full under adapt trains every");
  const TrainConfig config =
      config_with("[{match: ['*.q_proj', lm_head], method: galore}, {match: all-linear}]");
  EXPECT_TRUE(Adaptation(config, tiny_config()).projects());
}

TEST(Adaptation, ProjectsMatricesLayerByLayer) {
  const TrainConfig config = config_with(
      "[{match: '*.q_proj'}, {match: '*', method: galore, galore: {rank: 3, refresh: 30}}]");
  const Adaptation adaptation(config, tiny_config());
  const ProjectionRule rule = adaptation.projection_rule();
  const auto options = [&](const std::string& name, ParameterRole role) {
    Parameter parameter;
    parameter.name = name;
    parameter.role = role;
    return rule(parameter);
  };
  const int64_t layers = tiny_config().num_hidden_layers;
  const auto first = options("model.layers.0.mlp.up_proj.weight", ParameterRole::kLinear);
  const auto second = options("model.layers.1.self_attn.k_proj.weight", ParameterRole::kLinear);
  const auto head = options("lm_head.weight", ParameterRole::kHead);
  ASSERT_TRUE(first && second && head);
  EXPECT_EQ(first->rank, 3);
  EXPECT_EQ(first->offset, 0);
  EXPECT_EQ(second->offset, 30 / (layers + 1));
  EXPECT_EQ(head->offset, layers * 30 / (layers + 1));
  EXPECT_TRUE(options("model.embed_tokens.weight", ParameterRole::kEmbedding));
  EXPECT_FALSE(options("model.norm.weight", ParameterRole::kNorm));
  EXPECT_FALSE(options("model.layers.0.self_attn.q_proj.weight", ParameterRole::kLinear));
}

TEST(Adaptation, WeightsInBf16NeedThatComputeType) {
  TrainConfig config = config_with("[{method: galore, galore: {weights: bf16}}]");
  config.model.quant = BaseQuantization::kNone;
  const Adaptation adaptation(config, tiny_config());
  Arena arena;
  Stream stream;
  const ModelPlan plan = adaptation.plan(arena, stream);
  EXPECT_EQ(
      error_of<ConfigError>([&] { plan.stores_bf16("model.layers.0.self_attn.q_proj.weight"); }),
      "adapt.0.galore.weights: bf16 needs model.compute: bf16");
}

TEST(Adaptation, KeysOfOtherMethodsHaveNoUse) {
  const auto unused = [](const std::string& rule) {
    return error_of<ConfigError>([&] { config_with("[{" + rule + "}]"); });
  };
  RW_EXPECT_HAS(unused("method: dora, dropout: 0.1"),
                "adapt.0.dropout: method dora makes adapter and base weight one product");
  EXPECT_NO_THROW(config_with("[{method: dora, dropout: 0}]"));
  RW_EXPECT_HAS(unused("method: adalora, adalora: {init_rank: 4, target_rank: 5}"),
                "adapt.0.adalora.target_rank: must be at most adalora.init_rank (4), got 5");
  RW_EXPECT_HAS(unused("method: adalora, rank: 8"), "has adalora.init_rank");
  RW_EXPECT_HAS(unused("method: adalora, rslora: true"), "adapt.0.rslora: has no use");
  RW_EXPECT_HAS(unused("adalora: {init_rank: 8}"), "adapt.0.adalora: has no use: method is not");
  RW_EXPECT_HAS(unused("method: full, lr_ratio_b: 4"), "method has no adapter");
}

}  // namespace
}  // namespace rankwise
