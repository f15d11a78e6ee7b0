// SPDX-License-Identifier: Apache-2.0
// AdapterFolder: the low-rank matrices of a PEFT folder (LoRA, DoRA, AdaLoRA), without a model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/adapters/peft_folder.h"
#include "runtime/arena.h"
#include "runtime/io/safetensors.h"

namespace rankwise {

// A linear layer that an adapter changes.
struct AdaptedModule {
  std::string name;   // "model.layers.0.self_attn.q_proj"
  std::string kind;   // what follows the layer's number, "self_attn.q_proj"; else the name
  std::string layer;  // that number; empty: the name has none
  int64_t in = 0;
  int64_t out = 0;
  int64_t rank = 0;  // with AdaLoRA of the triplets whose E is not 0
};

// The weight W becomes W + b a; with a magnitude (DoRA) its rows then get these norms. F32.
struct AdapterFactors {
  Tensor a;          // (r, in), with AdaLoRA diag(E) A
  Tensor b;          // (out, r), times the scale
  Tensor magnitude;  // (out), or undefined
};

class AdapterFolder {
 public:
  // ConfigError when there is none; FormatError names file and tensor.
  explicit AdapterFolder(const std::string& folder);

  const std::string& path() const { return file_.path(); }
  const std::vector<AdaptedModule>& modules() const { return modules_; }  // by layer, then name
  // Tensors of `arena` under "analysis". FormatError for a value that is not finite.
  AdapterFactors factors(const AdaptedModule& module, Arena& arena) const;

 private:
  void add_module(const std::string& name);
  const SafetensorsEntry* find(const std::string& module, const std::string& part) const;
  Tensor read(const SafetensorsEntry& entry, Arena& arena) const;

  PeftConfig config_;
  SafetensorsFile file_;
  std::vector<AdaptedModule> modules_;
};

}  // namespace rankwise
