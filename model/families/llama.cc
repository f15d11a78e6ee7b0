// SPDX-License-Identifier: Apache-2.0
// Llama 1 to 3.x: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
#include "model/families/family.h"

namespace rankwise {
namespace {

WeightNames names() {
  return {.embedding = "model.embed_tokens.weight",
          .final_norm = "model.norm.weight",
          .head = "lm_head.weight",
          .layers = "model.layers",
          .input_norm = "input_layernorm",
          .mlp_norm = "post_attention_layernorm",
          .q = "self_attn.q_proj",
          .k = "self_attn.k_proj",
          .v = "self_attn.v_proj",
          .o = "self_attn.o_proj",
          .gate = "mlp.gate_proj",
          .up = "mlp.up_proj",
          .down = "mlp.down_proj"};
}

BlockFlags block_flags(const ModelConfig& config) {
  return {.qkv_bias = config.attention_bias,
          .output_bias = config.attention_bias,
          .mlp_bias = config.mlp_bias};
}

void read_config(const ConfigReader& reader, ModelConfig& config) {
  config.num_key_value_heads =
      reader.positive_or("num_key_value_heads", config.num_attention_heads);
  config.attention_bias = reader.boolean_or("attention_bias", false);
  config.mlp_bias = reader.boolean_or("mlp_bias", false);
  config.tie_word_embeddings = reader.boolean_or("tie_word_embeddings", false);
}

}  // namespace

const ModelFamily& llama_family() {
  static const ModelFamily family{"llama", names(), block_flags, read_config};
  return family;
}

}  // namespace rankwise
