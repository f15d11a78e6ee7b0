// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/hostile_inputs.h"

#include <map>

namespace rankwise::testing {

std::vector<HostileInput> hostile_inputs_of(const std::string& reader) {
  static const std::map<std::string, std::vector<HostileInput> (*)()> sets = {
      {"safetensors", hostile_safetensors},
      {"weight_index", hostile_weight_indexes},
      {"model_config", hostile_model_configs},
      {"tokenizer", hostile_tokenizers},
      {"training_yaml", hostile_training_yamls},
      {"store", hostile_stores},
      {"checkpoint_manifest", hostile_checkpoint_manifests}};
  return sets.at(reader)();
}

std::string repeated(const std::string& text, size_t count) {
  std::string result;
  result.reserve(text.size() * count);
  for (size_t i = 0; i < count; ++i) result += text;
  return result;
}

}  // namespace rankwise::testing
