// SPDX-License-Identifier: Apache-2.0
// A two-block Llama of random weights with the byte tokenizer, and an adapter for it, on disk.
#pragma once

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "launch/verbs/verb.h"
#include "model/adapters/lora_adapter.h"
#include "model/adapters/peft_folder.h"
#include "model/hf_folder.h"
#include "runtime/data/tokenizer.h"
#include "runtime/rng.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise::testing {

inline ModelConfig tiny_config() {
  return parse_model_config(parse_json(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 260,
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "initializer_range": 0.1,
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": false, "hidden_act": "silu",
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "kept_key": "kept"
  })",
                                       "tiny"),
                            "tiny");
}

// Writes the model with elements of `dtype` (F32 or BF16); returns the folder.
inline std::string write_tiny_model(const ScratchFolder& scratch, const std::string& name,
                                    DType dtype = DType::kF32) {
  const ModelConfig config = tiny_config();
  const auto source = make_random_weights(config, 5);
  Arena arena;
  std::vector<NamedTensor> tensors;
  for (const auto& [tensor, shape] : weight_shapes(config)) {
    const Tensor values = arena.allocate("weights", DType::kF32, shape);
    source->read(tensor, values);
    tensors.push_back({tensor, values});
    if (dtype == DType::kF32) continue;
    const Tensor halves = arena.allocate("weights", dtype, shape);
    std::transform(values.data<float>(), values.data<float>() + values.numel(),
                   static_cast<uint16_t*>(halves.raw()), bf16_from_float);
    tensors.back().tensor = halves;
  }
  write_hf_folder(scratch.file(name), config, tensors,
                  {{"tokenizer_config.json", byte_tokenizer_config()}});
  return scratch.file(name);
}

// LoRA of rank 4 on every q_proj and down_proj; B is drawn from N(0, b_stddev^2).
inline std::string write_tiny_adapter(const ScratchFolder& scratch, const std::string& name,
                                      float b_stddev = 0.1f) {
  const ModelConfig model = tiny_config();
  PeftConfig config;
  config.base_model_name_or_path = "tiny";
  config.r = 4;
  config.lora_alpha = 8.0;
  config.target_modules = {"down_proj", "q_proj"};
  Arena arena;
  Stream stream;
  std::vector<std::unique_ptr<LoraAdapter>> owned;
  std::vector<std::pair<std::string, Adapter*>> adapters;
  for (const auto& [tensor, shape] : weight_shapes(model)) {
    const std::string module = tensor.substr(0, tensor.rfind('.'));
    if (!config.targets(module)) continue;
    const LinearSite site{module, shape.dim(1), shape.dim(0), ShardSpec::replicated()};
    owned.push_back(std::make_unique<LoraAdapter>(
        site, LoraOptions{.rank = config.r, .alpha = config.lora_alpha}, 3, arena, stream));
    adapters.emplace_back(module, owned.back().get());
    for (Parameter* parameter : owned.back()->parameters()) {
      if (parameter->role != ParameterRole::kLoraB) continue;
      const auto count = static_cast<size_t>(parameter->dense().numel());
      Rng(9, parameter->name)
          .fill_normal({parameter->dense().data<float>(), count}, 0.0f, b_stddev);
    }
  }
  write_peft_folder(scratch.file(name), config, adapters,
                    {{"tokenizer_config.json", byte_tokenizer_config()}}, stream);
  return scratch.file(name);
}

// Names in a folder, sorted: shows temporary leftovers too.
inline std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace rankwise::testing
