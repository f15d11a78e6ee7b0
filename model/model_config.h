// SPDX-License-Identifier: Apache-2.0
// ModelConfig: architecture values under Hugging Face field names, read from config.json (v4 and
// v5).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/io/json.h"

namespace rankwise {

struct RopeConfig {
  enum class Kind { kDefault, kLinear, kLlama3 };
  Kind kind = Kind::kDefault;
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_position_embeddings = 0;
};

struct ModelConfig {
  std::string model_type;  // key of the family registry
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  int64_t sliding_window = 0;  // 0: none
  double rms_norm_eps = 1e-6;
  RopeConfig rope;
  bool attention_bias = false;  // on q, k, v and o
  bool mlp_bias = false;
  bool tie_word_embeddings = false;
  int32_t bos_token_id = -1;
  std::vector<int32_t> eos_token_ids;
  Json source;  // the whole file, to be written back with exports
};

// `path`: an HF folder or a quantised store. FormatError names file and key; a feature that would
// be computed wrongly (unknown rope type, activation, family) is refused by name.
ModelConfig load_model_config(const std::string& path);
ModelConfig parse_model_config(const Json& json, const std::string& source);

// Parameters of the base model (embedding, blocks, norm and, unless tied, head).
int64_t parameter_count(const ModelConfig& config);
// Floating-point operations of one token's forward pass: 2 per weight of every linear layer and of
// the head, plus attention at this mean context length.
double forward_flops_per_token(const ModelConfig& config, double mean_context);
// Rotary frequencies (head_dim / 2) after scaling.
std::vector<float> rope_inverse_frequencies(const ModelConfig& config);

}  // namespace rankwise
