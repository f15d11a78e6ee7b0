// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/adapters/peft_folder.h"
#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "tests/support/error_of.h"
#include "tests/support/golden.h"

namespace rankwise {
namespace {

Json minimal(const Json& changes = Json::object()) {
  Json json{{"peft_type", "LORA"}, {"target_modules", {"q_proj"}}};
  for (const auto& [key, value] : changes.items()) json[key] = value;
  return json;
}

void expect_refusal(const Json& changes, const std::string& key) {
  const std::string message =
      testing::error_of<Error>([&] { parse_peft_config(minimal(changes), "here"); });
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
  for (const char* key : {"use_dora", "use_qalora", "lora_bias", "fan_in_fan_out"}) {
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

TEST(PeftConfig, TextFromSettingsEqualsPeftsByteForByte) {
  RW_REQUIRE_SHARED();
  const std::string golden =
      testing::shared_folder() + "/golden/tiny/llama/lora/adapter_final/adapter_config.json";
  PeftConfig config;
  config.r = 4;
  config.lora_alpha = 16.0;
  config.target_modules = read_json_file(golden)["target_modules"].get<std::vector<std::string>>();
  EXPECT_EQ(peft_config_text(config), read_file(golden));
}

}  // namespace
}  // namespace rankwise
