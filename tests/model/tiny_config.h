// SPDX-License-Identifier: Apache-2.0
// Small model configurations and micro-batches for tests.
#pragma once

#include <string>
#include <vector>

#include "model/model_config.h"
#include "runtime/data/micro_batch.h"
#include "runtime/rng.h"

namespace rankwise::testing {

// config.json of a two-layer Llama with grouped-query attention; keys of `changes` replace its own.
inline Json tiny_config_json(const Json& changes = Json::object()) {
  Json json = Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 29,
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "hidden_act": "silu",
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": false
  })");
  for (const auto& [key, value] : changes.items()) json[key] = value;
  return json;
}

inline ModelConfig tiny_config(const Json& changes = Json::object()) {
  return parse_model_config(tiny_config_json(changes), "tiny");
}

// Random tokens; the first third of the labels is masked.
inline Sample random_sample(int64_t tokens, uint64_t seed, int32_t vocab = 29) {
  const Rng rng(seed, "sample");
  Sample sample;
  for (int64_t t = 0; t < tokens; ++t) {
    sample.input_ids.push_back(
        static_cast<int32_t>(rng.below(static_cast<uint64_t>(t), static_cast<uint64_t>(vocab))));
    sample.labels.push_back(t < tokens / 3 ? kIgnoredLabel : sample.input_ids.back());
  }
  return sample;
}

inline MicroBatch batch_of(const std::vector<Sample>& samples) {
  MicroBatch batch;
  for (const Sample& sample : samples) append_document(batch, sample);
  return batch;
}

inline MicroBatch three_documents() {
  return batch_of({random_sample(9, 1), random_sample(4, 2), random_sample(7, 3)});
}

}  // namespace rankwise::testing
