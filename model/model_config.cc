// SPDX-License-Identifier: Apache-2.0
#include "model/model_config.h"

#include <cmath>
#include <filesystem>
#include <numbers>

#include "model/config_reader.h"
#include "model/families/family.h"
#include "model/hf_folder.h"
#include "runtime/errors.h"
#include "runtime/io/quantized_store.h"

namespace rankwise {
namespace {

constexpr int64_t kMostLayers = 10'000;  // a damaged file must not make us list billions of names

// transformers 5 keeps one object `rope_parameters`; version 4 a pair rope_theta, rope_scaling.
RopeConfig read_rope(const ConfigReader& reader, const ModelConfig& config) {
  RopeConfig rope;
  rope.theta = reader.real_or("rope_theta", rope.theta);
  const char* key = reader.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!reader.has(key)) return rope;
  const ConfigReader fields = reader.object(key);
  if (fields.has("full_attention") || fields.has("sliding_attention")) {
    reader.fail(key, "one set of parameters per layer type is not supported");
  }
  rope.theta = fields.real_or("rope_theta", rope.theta);
  if (fields.real_or("partial_rotary_factor", 1.0) != 1.0) {
    fields.fail("partial_rotary_factor", "only 1 is supported");
  }
  const std::string type = fields.text_or("rope_type", fields.text_or("type", "default"));
  if (type == "default") return rope;
  if (type == "linear") {
    rope.kind = RopeConfig::Kind::kLinear;
  } else if (type == "llama3") {
    rope.kind = RopeConfig::Kind::kLlama3;
    rope.low_freq_factor = fields.real("low_freq_factor");
    rope.high_freq_factor = fields.real("high_freq_factor");
    rope.original_max_position_embeddings =
        fields.positive_or("original_max_position_embeddings", config.max_position_embeddings);
    if (!(rope.low_freq_factor > 0.0 && rope.high_freq_factor > rope.low_freq_factor)) {
      fields.fail("high_freq_factor", "must be greater than low_freq_factor, and that positive");
    }
  } else {
    fields.fail("rope_type",
                fmt::format("{} is not supported; known: default, linear, llama3", quote(type)));
  }
  rope.factor = fields.real("factor");
  if (!(rope.factor > 0.0)) fields.fail("factor", "must be positive");
  return rope;
}

// `layer_types` overrides the family's rule; a mixture is not computed.
void apply_layer_types(const ConfigReader& reader, ModelConfig& config) {
  if (!reader.has("layer_types")) return;
  const Json& types = reader.at("layer_types");
  if (!types.is_array() || types.empty()) reader.fail("layer_types", "expected a list of texts");
  for (const Json& type : types) {
    if (type != types.front())
      reader.fail("layer_types", "layers of several types are not supported");
  }
  if (types.front() == "full_attention") {
    config.sliding_window = 0;
  } else if (types.front() == "sliding_attention") {
    config.sliding_window = reader.positive("sliding_window");
  } else {
    reader.fail("layer_types", quote(types.front().dump()) + " is not supported");
  }
}

void refuse_unsupported(const ConfigReader& reader) {
  const std::string activation = reader.text_or("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    reader.fail("hidden_act", fmt::format("{} is not supported; known: silu", quote(activation)));
  }
  if (reader.has("quantization_config")) {
    reader.fail("quantization_config",
                "the weights are already quantised; give the original model");
  }
  if (reader.real_or("attention_dropout", 0.0) != 0.0) {
    reader.fail("attention_dropout", "only 0 is supported");
  }
}

void validate(const ConfigReader& reader, const ModelConfig& config) {
  if (config.num_hidden_layers > kMostLayers) {
    reader.fail("num_hidden_layers",
                fmt::format("{} is more than {}", config.num_hidden_layers, kMostLayers));
  }
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    reader.fail("num_key_value_heads",
                fmt::format("{} does not divide num_attention_heads {}", config.num_key_value_heads,
                            config.num_attention_heads));
  }
  if (config.head_dim % 2 != 0) {
    reader.fail("head_dim",
                fmt::format("{} is odd; rotary embedding needs pairs", config.head_dim));
  }
  if (!(config.rms_norm_eps > 0.0)) reader.fail("rms_norm_eps", "must be positive");
  if (!(config.rope.theta > 1.0)) reader.fail("rope_theta", "must be greater than 1");
}

}  // namespace

ModelConfig parse_model_config(const Json& json, const std::string& source) {
  const ConfigReader reader(json, source);
  const ModelFamily& family = family_of(reader.text("model_type"), source);
  refuse_unsupported(reader);
  ModelConfig config;
  config.model_type = family.model_type;
  config.vocab_size = reader.positive("vocab_size");
  config.hidden_size = reader.positive("hidden_size");
  config.intermediate_size = reader.positive("intermediate_size");
  config.num_hidden_layers = reader.positive("num_hidden_layers");
  config.num_attention_heads = reader.positive("num_attention_heads");
  config.max_position_embeddings = reader.positive_or("max_position_embeddings", 2048);
  config.rms_norm_eps = reader.real_or("rms_norm_eps", 1e-6);
  if (reader.has("head_dim")) {
    config.head_dim = reader.positive("head_dim");
  } else if (config.hidden_size % config.num_attention_heads != 0) {
    reader.fail("num_attention_heads", fmt::format("{} does not divide hidden_size {}",
                                                   config.num_attention_heads, config.hidden_size));
  } else {
    config.head_dim = config.hidden_size / config.num_attention_heads;
  }
  config.rope = read_rope(reader, config);
  const std::vector<int32_t> bos = reader.token_ids("bos_token_id");
  if (!bos.empty()) config.bos_token_id = bos.front();
  config.eos_token_ids = reader.token_ids("eos_token_id");
  config.source = json;
  family.read_config(reader, config);
  apply_layer_types(reader, config);
  validate(reader, config);
  return config;
}

ModelConfig load_model_config(const std::string& path) {
  const std::string name = "config.json";
  if (is_quantized_store(path)) {
    const std::string source = path + ":" + name;
    return parse_model_config(parse_json(read_store_file(path, name), source), source);
  }
  const std::string file = (std::filesystem::path(path) / name).string();
  return parse_model_config(read_json_file(file), file);
}

int64_t parameter_count(const ModelConfig& config) {
  int64_t count = 0;
  for (const auto& [name, shape] : weight_shapes(config)) count += shape.numel();
  return count;
}

double forward_flops_per_token(const ModelConfig& config, double mean_context) {
  const auto hidden = static_cast<double>(config.hidden_size);
  const auto query = static_cast<double>(config.num_attention_heads * config.head_dim);
  const auto key_value = static_cast<double>(config.num_key_value_heads * config.head_dim);
  const auto inner = static_cast<double>(config.intermediate_size);
  const double weights = hidden * (2.0 * query + 2.0 * key_value + 3.0 * inner);
  const double attention = 2.0 * 2.0 * query * mean_context;  // q k^T and p v
  const auto layers = static_cast<double>(config.num_hidden_layers);
  const double head = 2.0 * hidden * static_cast<double>(config.vocab_size);
  return layers * (2.0 * weights + attention) + head;
}

std::vector<float> rope_inverse_frequencies(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  const auto factor = static_cast<float>(rope.factor);
  const auto low = static_cast<float>(rope.low_freq_factor);
  const auto high = static_cast<float>(rope.high_freq_factor);
  const auto original = static_cast<float>(rope.original_max_position_embeddings);
  std::vector<float> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t j = 0; j < frequencies.size(); ++j) {
    // fp32 throughout, as the reference computes it.
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(config.head_dim);
    float frequency = 1.0f / std::pow(static_cast<float>(rope.theta), exponent);
    if (rope.kind == RopeConfig::Kind::kLinear) {
      frequency /= factor;
    } else if (rope.kind == RopeConfig::Kind::kLlama3) {
      const float wavelength = 2.0f * std::numbers::pi_v<float> / frequency;
      if (wavelength > original / low) {
        frequency /= factor;
      } else if (wavelength >= original / high) {
        const float smooth = (original / wavelength - low) / (high - low);
        frequency = (1.0f - smooth) * frequency / factor + smooth * frequency;
      }
    }
    frequencies[j] = frequency;
  }
  return frequencies;
}

}  // namespace rankwise
