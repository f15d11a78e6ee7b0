// SPDX-License-Identifier: Apache-2.0
// AdapterFolder: the adapters of a PEFT folder, loaded without the model they belong to.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/adapters/adapter.h"
#include "runtime/arena.h"

namespace rankwise {

struct AdaptedModule {
  std::string name;   // "model.layers.0.self_attn.q_proj"
  std::string kind;   // what follows the layer's number, "self_attn.q_proj"; else the name
  std::string layer;  // that number; empty: the name has none
  int64_t in = 0;
  int64_t out = 0;
  int64_t rank = 0;  // with AdaLoRA of the triplets whose E is not 0
  std::unique_ptr<Adapter> adapter;
};

class AdapterFolder {
 public:
  // Of a PEFT folder, or of the folder of a run. ConfigError when there is none; FormatError as
  // read_peft_config and load_peft_weights, and for a value that is not finite.
  explicit AdapterFolder(const std::string& given);

  const std::string& path() const { return path_; }
  const std::vector<AdaptedModule>& modules() const { return modules_; }  // by layer, then name

 private:
  std::string path_;
  Arena arena_;
  std::vector<AdaptedModule> modules_;
};

}  // namespace rankwise
