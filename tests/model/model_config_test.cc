// SPDX-License-Identifier: Apache-2.0
#include "model/model_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <string>

#include "model/hf_folder.h"
#include "runtime/errors.h"
#include "tests/model/tiny_config.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::tiny_config;
using testing::tiny_config_json;

// The message of the FormatError that parsing ends with; empty when it does not fail.
std::string refusal(const Json& json) {
  try {
    parse_model_config(json, "config.json");
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

void expect_refusal(const Json& changes, const std::string& key, const std::string& reason) {
  const std::string message = refusal(tiny_config_json(changes));
  EXPECT_TRUE(message.starts_with("config.json: " + key)) << key << ": " << message;
  EXPECT_NE(message.find(reason), std::string::npos) << message;
}

TEST(ModelConfig, ReadsTheKeysOfTransformers4) {
  const ModelConfig config = tiny_config({{"rope_theta", 500000.0},
                                          {"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}},
                                          {"attention_bias", true},
                                          {"mlp_bias", true},
                                          {"eos_token_id", {7, 9}}});
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.vocab_size, 29);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.head_dim, 6);  // not hidden_size / heads
  EXPECT_EQ(config.rope.theta, 500000.0);
  EXPECT_EQ(config.rope.kind, RopeConfig::Kind::kLinear);
  EXPECT_EQ(config.rope.factor, 4.0);
  EXPECT_TRUE(config.attention_bias);
  EXPECT_TRUE(config.mlp_bias);
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{7, 9}));
}

TEST(ModelConfig, ReadsTheKeysOfTransformers5) {
  const ModelConfig config = tiny_config({{"rope_theta", nullptr},
                                          {"rope_parameters",
                                           {{"rope_type", "llama3"},
                                            {"rope_theta", 1000.0},
                                            {"factor", 8.0},
                                            {"low_freq_factor", 1.0},
                                            {"high_freq_factor", 4.0}}}});
  EXPECT_EQ(config.rope.theta, 1000.0);
  EXPECT_EQ(config.rope.kind, RopeConfig::Kind::kLlama3);
  EXPECT_EQ(config.rope.original_max_position_embeddings, 64);  // from max_position_embeddings
}

TEST(ModelConfig, AbsentKeysHaveTheFamilysDefaults) {
  Json json = tiny_config_json({{"head_dim", nullptr}, {"rope_scaling", nullptr}});
  for (const char* key : {"num_key_value_heads", "rope_theta", "tie_word_embeddings",
                          "rms_norm_eps", "bos_token_id", "eos_token_id"}) {
    json.erase(key);
  }
  const ModelConfig config = parse_model_config(json, "config.json");
  EXPECT_EQ(config.head_dim, 4);
  EXPECT_EQ(config.num_key_value_heads, 4);
  EXPECT_EQ(config.rope.theta, 10000.0);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.bos_token_id, -1);
  EXPECT_TRUE(config.eos_token_ids.empty());
}

TEST(ModelConfig, MistralsAbsentWindowIs4096AndNullIsNone) {
  const Json mistral{{"model_type", "mistral"}};
  Json json = tiny_config_json(mistral);
  EXPECT_EQ(parse_model_config(json, "").sliding_window, 4096);
  json["sliding_window"] = nullptr;
  EXPECT_EQ(parse_model_config(json, "").sliding_window, 0);
  json["sliding_window"] = 5;
  EXPECT_EQ(parse_model_config(json, "").sliding_window, 5);
  json["layer_types"] = {"full_attention", "full_attention"};
  EXPECT_EQ(parse_model_config(json, "").sliding_window, 0);
  json["layer_types"] = {"sliding_attention", "sliding_attention"};
  EXPECT_EQ(parse_model_config(json, "").sliding_window, 5);
}

TEST(ModelConfig, RefusesByNameWhatItWouldComputeWrongly) {
  expect_refusal({{"model_type", "gemma"}}, "model_type",
                 "'gemma' is not supported; known: llama");
  expect_refusal({{"hidden_act", "gelu"}}, "hidden_act", "gelu");
  expect_refusal({{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}}},
                 "rope_scaling.rope_type", "yarn");
  expect_refusal({{"rope_parameters", {{"full_attention", Json::object()}}}}, "rope_parameters",
                 "layer type");
  expect_refusal({{"rope_parameters", {{"partial_rotary_factor", 0.5}}}},
                 "rope_parameters.partial_rotary_factor", "1");
  expect_refusal({{"quantization_config", {{"load_in_4bit", true}}}}, "quantization_config",
                 "quantised");
  expect_refusal({{"attention_dropout", 0.1}}, "attention_dropout", "0");
  expect_refusal({{"layer_types", {"full_attention", "sliding_attention"}}}, "layer_types",
                 "several");
}

TEST(ModelConfig, RefusesValuesThatFitNoModel) {
  expect_refusal({{"num_key_value_heads", 3}}, "num_key_value_heads", "does not divide");
  expect_refusal({{"head_dim", 5}}, "head_dim", "odd");
  expect_refusal({{"head_dim", nullptr}, {"hidden_size", 18}}, "num_attention_heads",
                 "does not divide");
  expect_refusal({{"hidden_size", 0}}, "hidden_size", "outside");
  expect_refusal({{"hidden_size", -4}}, "hidden_size", "outside");
  expect_refusal({{"hidden_size", 18446744073709551615ull}}, "hidden_size", "outside");
  expect_refusal({{"hidden_size", 16.5}}, "hidden_size", "integer");
  expect_refusal({{"vocab_size", "29"}}, "vocab_size", "integer");
  expect_refusal({{"num_hidden_layers", 1000000000}}, "num_hidden_layers", "more than");
  expect_refusal({{"rms_norm_eps", 0.0}}, "rms_norm_eps", "positive");
  expect_refusal({{"tie_word_embeddings", 1}}, "tie_word_embeddings", "true or false");
  expect_refusal({{"eos_token_id", {1, "x"}}}, "eos_token_id", "token id");
  expect_refusal({{"rope_scaling", {{"type", "linear"}}}}, "rope_scaling.factor", "missing");
  EXPECT_NE(refusal(Json::array()).find("expected an object"), std::string::npos);
  for (const char* key : {"model_type", "vocab_size", "hidden_size", "intermediate_size",
                          "num_hidden_layers", "num_attention_heads"}) {
    Json json = tiny_config_json();
    json.erase(key);
    EXPECT_EQ(refusal(json), fmt::format("config.json: {}: missing", key));
  }
}

TEST(ModelConfig, LoadsFromAFolder) {
  const testing::ScratchFolder scratch;
  scratch.write("config.json", tiny_config_json().dump());
  EXPECT_EQ(load_model_config(scratch.path()).hidden_size, 16);
  EXPECT_THROW(load_model_config(scratch.file("absent")), FormatError);
}

TEST(ModelConfig, CountsParametersAndOperations) {
  const ModelConfig config = tiny_config();
  // q, o 16 x 24; k, v 16 x 12; gate, up, down 16 x 24; two norms.
  const int64_t linears = 2 * 16 * 24 + 2 * 16 * 12 + 3 * 16 * 24;
  EXPECT_EQ(parameter_count(config), 2 * 29 * 16 + 2 * (linears + 2 * 16) + 16);
  EXPECT_EQ(parameter_count(tiny_config({{"tie_word_embeddings", true}})),
            29 * 16 + 2 * (linears + 2 * 16) + 16);
  const double attention = 4.0 * 24.0 * 10.0;
  EXPECT_EQ(forward_flops_per_token(config, 10.0),
            2.0 * (2.0 * static_cast<double>(linears) + attention) + 2.0 * 16.0 * 29.0);
}

TEST(RopeFrequencies, AreAGeometricSeries) {
  const std::vector<float> frequencies = rope_inverse_frequencies(tiny_config());
  ASSERT_EQ(frequencies.size(), 3u);
  EXPECT_EQ(frequencies[0], 1.0f);
  EXPECT_NEAR(frequencies[1], std::pow(10000.0, -1.0 / 3.0), 1e-8);
  EXPECT_NEAR(frequencies[2], std::pow(10000.0, -2.0 / 3.0), 1e-8);
}

TEST(RopeFrequencies, LinearScalingDividesAll) {
  const auto plain = rope_inverse_frequencies(tiny_config());
  const auto scaled = rope_inverse_frequencies(
      tiny_config({{"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}}));
  for (size_t j = 0; j < plain.size(); ++j) EXPECT_FLOAT_EQ(scaled[j], plain[j] / 4.0f);
}

// Llama 3.1: short waves are kept, long ones slowed down by the factor, those between interpolated.
TEST(RopeFrequencies, Llama3ScalingHasThreeRegions) {
  const Json scaling{{"rope_type", "llama3"},
                     {"factor", 8.0},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 4.0},
                     {"original_max_position_embeddings", 8192}};
  const Json llama31{{"head_dim", 128}, {"rope_theta", 500000.0}, {"rope_scaling", scaling}};
  const auto scaled = rope_inverse_frequencies(tiny_config(llama31));
  int kept = 0;
  int slowed = 0;
  for (size_t j = 0; j < scaled.size(); ++j) {
    const double plain = std::pow(500000.0, -2.0 * static_cast<double>(j) / 128.0);
    const double wavelength = 2.0 * std::numbers::pi / plain;
    double expected = plain;
    if (wavelength > 8192.0) {
      expected = plain / 8.0;
      ++slowed;
    } else if (wavelength > 2048.0) {
      const double smooth = (8192.0 / wavelength - 1.0) / 3.0;
      expected = (1.0 - smooth) * plain / 8.0 + smooth * plain;
    } else {
      ++kept;
    }
    EXPECT_NEAR(scaled[j] / expected, 1.0, 1e-5) << j;
  }
  // Wavelength 2048 lies between j = 28 and 29, 8192 between 34 and 35.
  EXPECT_EQ(kept, 29);
  EXPECT_EQ(slowed, 29);
}

}  // namespace
}  // namespace rankwise
