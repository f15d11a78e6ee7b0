// SPDX-License-Identifier: Apache-2.0
// Mistral: the Llama architecture without biases, with an optional sliding window.
#include "model/families/family.h"

namespace rankwise {
namespace {

// Defaults of transformers' MistralConfig, which stand for keys that are absent from the file.
constexpr int64_t kDefaultKeyValueHeads = 8;
constexpr int64_t kDefaultSlidingWindow = 4096;

BlockFlags block_flags(const ModelConfig&) { return {}; }

void read_config(const ConfigReader& reader, ModelConfig& config) {
  config.num_key_value_heads = reader.positive_or("num_key_value_heads", kDefaultKeyValueHeads);
  config.tie_word_embeddings = reader.boolean_or("tie_word_embeddings", false);
  // null switches the window off; only an absent key means the default.
  config.sliding_window = reader.is_null("sliding_window")
                              ? 0
                              : reader.positive_or("sliding_window", kDefaultSlidingWindow);
}

}  // namespace

const ModelFamily& mistral_family() {
  static const ModelFamily family{"mistral", llama_family().names, block_flags, read_config};
  return family;
}

}  // namespace rankwise
