// SPDX-License-Identifier: Apache-2.0
// PEFT adapter folders: adapter_config.json and adapter_model.safetensors, read and written.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/adapters/adapter.h"
#include "runtime/io/json.h"
#include "runtime/named_tensor.h"

namespace rankwise {

// In the order of the file, which decides between patterns that match the same module.
template <class T>
using PatternTable = nlohmann::ordered_map<std::string, T>;

// What peft_type ADALORA adds. PEFT takes scale and first rank from lora_alpha and init_r; it
// ignores r, alpha_pattern and use_rslora.
struct AdaLoraSettings {
  int64_t init_r = 12;
  int64_t target_r = 8;
  int64_t tinit = 0;   // steps before the budget falls
  int64_t tfinal = 0;  // steps after it has fallen
  int64_t delta_t = 1;
  double beta1 = 0.85;
  double beta2 = 0.85;
  double orth_reg_weight = 0.5;
  int64_t total_step = 0;  // PEFT loads no folder without one
  // rank_pattern: of a module's init_r triplets, those that the folder holds; a module that is
  // absent holds all.
  std::map<std::string, std::vector<bool>> kept;
};

// adapter_config.json as far as it decides what an adapter is; `source` keeps every key.
struct PeftConfig {
  std::string peft_type = "LORA";  // or "ADALORA", iff `adalora` is set
  std::string base_model_name_or_path;
  int64_t r = 8;
  double lora_alpha = 8.0;
  double lora_dropout = 0.0;
  bool use_rslora = false;
  bool use_dora = false;
  std::vector<std::string> target_modules;   // suffixes; or one regular expression
  bool target_is_regex = false;              // "all-linear": every linear layer
  std::vector<std::string> exclude_modules;  // as target_modules; these win
  bool exclude_is_regex = false;
  PatternTable<int64_t> rank_pattern;
  PatternTable<double> alpha_pattern;
  std::optional<AdaLoraSettings> adalora;
  Json source;

  // Rank and alpha of a module after patterns; the first matching key wins, as in PEFT. Of AdaLoRA
  // the first rank, whatever was pruned.
  int64_t rank_of(const std::string& module) const;
  double alpha_of(const std::string& module) const;
  bool targets(const std::string& module) const;
};

// FormatError names file and key; a variant of LoRA that would be computed wrongly is refused by
// name.
PeftConfig read_peft_config(const std::string& folder);
PeftConfig parse_peft_config(const Json& json, const std::string& source);
// adapter_config.json as PEFT 0.21 writes it: all its keys, sorted, indent 2, no final newline.
std::string peft_config_text(const PeftConfig& config);

// Copies the folder's tensors into the adapters; of triplets that an AdaLoRA folder does not hold,
// E becomes 0, while A and B stay as they are, so that they can be trained anew. FormatError when a
// tensor fits no adapter, an adapter gets none, or a shape differs (PEFT would stay silent about
// the first two).
void load_peft_weights(const std::string& folder,
                       const std::vector<std::pair<std::string, Adapter*>>& adapters,
                       Stream& stream);

// Writes the folder PEFT would write (adapter_config.json keys sorted, indent 2; tensors under
// "base_model.model.", of AdaLoRA the triplets that `config` keeps), reads it back and compares
// names, shapes, content, and method and ranks that the config gives; then renames it to `folder`.
// Files in `extra` (tokenizer) are copied beside. Replaces an adapter folder, never another one.
// DiskError leaves what stood under the name.
void write_peft_folder(const std::string& folder, const PeftConfig& config,
                       const std::vector<std::pair<std::string, Adapter*>>& adapters,
                       const std::vector<std::pair<std::string, std::string>>& extra_files,
                       Stream& stream);

}  // namespace rankwise
