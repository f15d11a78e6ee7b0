// SPDX-License-Identifier: Apache-2.0
// ModelFamily: what one architecture calls its weights and its config fields; and their registry.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/config_reader.h"
#include "model/model_config.h"

namespace rankwise {

// Hugging Face names. Modules of a block are relative to "<layers>.<index>."; a linear layer owns
// "<module>.weight" and, where the flags say so, "<module>.bias".
struct WeightNames {
  std::string embedding, final_norm, head;  // tensor names
  std::string layers;                       // path of the list of blocks
  std::string input_norm, mlp_norm;         // modules of a block
  std::string q, k, v, o, gate, up, down;
};

struct BlockFlags {
  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
};

struct ModelFamily {
  std::string model_type;  // key of config.json
  WeightNames names;
  BlockFlags (*block_flags)(const ModelConfig& config);
  // Fields and defaults that differ between families; the shared ones were read before.
  void (*read_config)(const ConfigReader& reader, ModelConfig& config);
};

// FormatError naming `source` and the known families when there is none of this type.
const ModelFamily& family_of(std::string_view model_type, std::string_view source);
std::vector<std::string> known_families();

// One per family; registry.cc lists them.
const ModelFamily& llama_family();
const ModelFamily& mistral_family();

}  // namespace rankwise
