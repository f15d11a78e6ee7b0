// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "model/adapters/peft_folder.h"
#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "tests/support/error_of.h"
#include "tests/support/golden.h"

namespace rankwise {
namespace {

using testing::error_of;

Json minimal(const Json& changes = Json::object()) {
  Json json{{"peft_type", "LORA"}, {"target_modules", {"q_proj"}}};
  for (const auto& [key, value] : changes.items()) json[key] = value;
  return json;
}

void expect_refusal(const Json& changes, const std::string& key) {
  const std::string message = error_of<Error>([&] { parse_peft_config(minimal(changes), "here"); });
  EXPECT_TRUE(message.starts_with("here: " + key + ": ")) << key << ": " << message;
}

TEST(PeftConfig, MinimalFileHasPeftsDefaults) {
  const PeftConfig config = parse_peft_config(minimal(), "here");
  EXPECT_EQ(config.r, 8);
  EXPECT_EQ(config.lora_alpha, 8.0);
  EXPECT_EQ(config.lora_dropout, 0.0);
  EXPECT_FALSE(config.use_rslora);
  EXPECT_TRUE(config.targets("model.layers.3.self_attn.q_proj"));
  EXPECT_TRUE(config.targets("q_proj"));
  EXPECT_FALSE(config.targets("model.layers.3.self_attn.xq_proj"));
  EXPECT_FALSE(config.targets("model.layers.3.self_attn.q_proj.sub"));
}

TEST(PeftConfig, ATextTargetIsARegularExpressionOverTheWholePath) {
  const PeftConfig config =
      parse_peft_config(minimal({{"target_modules", R"(.*\.layers\.[01]\..*(q|v)_proj)"}}), "here");
  EXPECT_TRUE(config.targets("model.layers.1.self_attn.v_proj"));
  EXPECT_FALSE(config.targets("model.layers.2.self_attn.v_proj"));
  EXPECT_FALSE(config.targets("model.layers.1.self_attn.v_proj_extra"));
  const PeftConfig all = parse_peft_config(minimal({{"target_modules", "all-linear"}}), "here");
  EXPECT_TRUE(all.targets("model.layers.1.mlp.up_proj"));
}

TEST(PeftConfig, ExclusionWins) {
  const PeftConfig config =
      parse_peft_config(minimal({{"exclude_modules", {"layers.0.self_attn.q_proj"}}}), "here");
  EXPECT_FALSE(config.targets("model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(config.targets("model.layers.1.self_attn.q_proj"));
}

TEST(PeftConfig, TheFirstMatchingPatternOfTheFileDecides) {
  const PeftConfig config = parse_peft_config(
      minimal(
          {{"rank_pattern", {{"self_attn.q_proj", 2}, {"q_proj", 3}, {"^model.layers.1.mlp.*", 5}}},
           {"alpha_pattern", {{"layers.1.self_attn.q_proj", 32.5}}}}),
      "here");
  EXPECT_EQ(config.rank_of("model.layers.0.self_attn.q_proj"), 2);
  EXPECT_EQ(config.rank_of("model.layers.0.other.q_proj"), 3);
  EXPECT_EQ(config.rank_of("model.layers.0.other.xq_proj"), 8);  // whole path components only
  EXPECT_EQ(config.rank_of("model.layers.1.mlp.up_proj"), 5);
  EXPECT_EQ(config.alpha_of("model.layers.1.self_attn.q_proj"), 32.5);
  EXPECT_EQ(config.alpha_of("model.layers.11.self_attn.q_proj"), 8.0);
}

TEST(PeftConfig, RefusesByNameWhatItWouldComputeWrongly) {
  expect_refusal({{"peft_type", "IA3"}}, "peft_type");
  for (const char* key : {"use_qalora", "lora_bias", "fan_in_fan_out"}) {
    expect_refusal({{key, true}}, key);
  }
  expect_refusal({{"bias", "all"}}, "bias");
  expect_refusal({{"modules_to_save", {"lm_head"}}}, "modules_to_save");
  expect_refusal({{"layers_to_transform", {0, 1}}}, "layers_to_transform");
  expect_refusal({{"trainable_token_indices", {1}}}, "trainable_token_indices");
  expect_refusal({{"init_lora_weights", "pissa"}}, "init_lora_weights");
  expect_refusal({{"target_modules", "(q_proj"}}, "target_modules");
  expect_refusal({{"target_modules", nullptr}}, "target_modules");
  expect_refusal({{"target_modules", {1}}}, "target_modules");
  expect_refusal({{"rank_pattern", {{"(q", 4}}}}, "rank_pattern");
  expect_refusal({{"rank_pattern", {{"q_proj", 0}}}}, "rank_pattern.q_proj");
  expect_refusal({{"r", 0}}, "r");
  expect_refusal({{"lora_dropout", 1.0}}, "lora_dropout");
  EXPECT_NO_THROW(parse_peft_config(minimal({{"init_lora_weights", "gaussian"},
                                             {"modules_to_save", Json::array()},
                                             {"bias", "none"}}),
                                    "here"));
}

Json adalora(const Json& changes = Json::object()) {
  Json json = minimal({{"peft_type", "ADALORA"}, {"init_r", 3}, {"total_step", 20}});
  json.update(changes);
  return json;
}

TEST(PeftConfig, AdaLoraHasPeftsDefaultsAndOneRank) {
  const PeftConfig config = parse_peft_config(
      minimal({{"peft_type", "ADALORA"}, {"total_step", 20}, {"lora_alpha", 16}, {"r", 4}}),
      "here");
  ASSERT_TRUE(config.adalora);
  EXPECT_EQ(config.adalora->init_r, 12);
  EXPECT_EQ(config.adalora->target_r, 8);
  EXPECT_EQ(config.adalora->tinit, 0);
  EXPECT_EQ(config.adalora->tfinal, 0);
  EXPECT_EQ(config.adalora->delta_t, 1);
  EXPECT_EQ(config.adalora->beta1, 0.85);
  EXPECT_EQ(config.adalora->beta2, 0.85);
  EXPECT_EQ(config.adalora->orth_reg_weight, 0.5);
  EXPECT_EQ(config.adalora->total_step, 20);
  EXPECT_TRUE(config.adalora->kept.empty());
  EXPECT_EQ(config.rank_of("model.layers.0.self_attn.q_proj"), 12);
  EXPECT_FALSE(parse_peft_config(minimal(), "here").adalora);
}

TEST(PeftConfig, AdaLorasRankPatternNamesModulesAndTheAlphaPatternIsIgnored) {
  const PeftConfig config =
      parse_peft_config(adalora({{"rank_pattern", {{"h.q_proj.lora_E", {true, false, true}}}},
                                 {"alpha_pattern", {{"q_proj", 2}}}}),
                        "here");
  EXPECT_EQ(config.adalora->kept,
            (std::map<std::string, std::vector<bool>>{{"h.q_proj", {true, false, true}}}));
  EXPECT_TRUE(config.rank_pattern.empty());
  EXPECT_EQ(config.rank_of("h.q_proj"), 3);
  EXPECT_EQ(config.alpha_of("h.q_proj"), 8.0);
}

TEST(PeftConfig, RefusesAnAdaLoraThatPeftWouldNotBuild) {
  const auto refuses = [](const Json& changes, const std::string& part) {
    RW_EXPECT_HAS(error_of<FormatError>([&] { parse_peft_config(adalora(changes), "here"); }),
                  "here: " + part);
  };
  refuses({{"use_dora", true}}, "use_dora: is not supported with peft_type ADALORA");
  refuses({{"total_step", nullptr}}, "total_step: missing");
  refuses({{"tinit", 15}, {"tfinal", 5}}, "total_step: 20 steps leave none");
  refuses({{"tinit", -1}}, "tinit: -1 is outside");
  refuses({{"init_r", 0}}, "init_r: 0 is outside");
  refuses({{"deltaT", 0}}, "deltaT: 0 is outside");
  refuses({{"beta1", "x"}}, "beta1: expected a number");
  refuses({{"lora_alpha", 0}}, "lora_alpha: must be greater than 0");
  refuses({{"rank_pattern", {{"q_proj", {true, true, true}}}}}, "rank_pattern.q_proj: expected a");
  refuses({{"rank_pattern", {{"q_proj.lora_E", 3}}}},
          "rank_pattern.q_proj.lora_E: expected a list");
  refuses({{"rank_pattern", {{"q_proj.lora_E", {1, 0, 1}}}}},
          "rank_pattern.q_proj.lora_E: expected a list");
  refuses({{"rank_pattern", {{"q_proj.lora_E", {true, true}}}}},
          "rank_pattern.q_proj.lora_E: 2 values, init_r is 3");
}

TEST(PeftConfig, WrittenTextHoldsEverySettingSorted) {
  PeftConfig config;
  config.r = 4;
  config.target_modules = {"q_proj", "v_proj"};
  config.lora_alpha = 24.5;
  config.use_rslora = true;
  config.base_model_name_or_path = "models/caf\xc3\xa9";
  config.rank_pattern["layers.1.self_attn.q_proj"] = 2;
  const std::string text = peft_config_text(config);
  const Json json = Json::parse(text);
  EXPECT_EQ(json["r"], 4);
  EXPECT_EQ(json["lora_alpha"], 24.5);
  EXPECT_EQ(json["use_rslora"], true);
  EXPECT_EQ(json["inference_mode"], true);
  EXPECT_EQ(json["rank_pattern"].dump(), R"({"layers.1.self_attn.q_proj":2})");
  EXPECT_NE(text.find(R"("base_model_name_or_path": "models/caf\u00e9")"), std::string::npos);
  std::string last;
  for (const auto& [key, value] : json.items()) {
    EXPECT_LT(last, key);
    last = key;
  }
  const PeftConfig back = parse_peft_config(json, "back");
  EXPECT_EQ(back.target_modules, config.target_modules);
  EXPECT_EQ(back.rank_of("model.layers.1.self_attn.q_proj"), 2);
}

// The settings of the golden runs; list and masks, whose order or place is arbitrary, from the
// file.
PeftConfig golden_settings(const std::string& method, const PeftConfig& golden) {
  PeftConfig config;
  config.r = 4;
  config.lora_alpha = 16.0;
  config.target_modules = golden.target_modules;
  config.use_dora = method == "dora";
  if (method != "adalora") return config;
  config.r = 8;
  config.peft_type = "ADALORA";
  config.adalora = AdaLoraSettings{.init_r = 6,
                                   .target_r = 3,
                                   .tinit = 6,
                                   .tfinal = 12,
                                   .delta_t = 3,
                                   .total_step = 48,
                                   .kept = golden.adalora->kept};
  return config;
}

TEST(PeftConfig, TextFromSettingsEqualsPeftsByteForByte) {
  RW_REQUIRE_SHARED();
  for (const std::string path : {"lora/adapter_final", "dora/adapter_final", "adalora/adapter_init",
                                 "adalora/adapter_final"}) {
    const std::string golden = testing::shared_folder() + "/golden/tiny/llama/" + path;
    const PeftConfig config =
        golden_settings(path.substr(0, path.find('/')), read_peft_config(golden));
    EXPECT_EQ(peft_config_text(config), read_file(golden + "/adapter_config.json")) << path;
  }
}

}  // namespace
}  // namespace rankwise
