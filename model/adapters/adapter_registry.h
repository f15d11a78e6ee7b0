// SPDX-License-Identifier: Apache-2.0
// Which adapter stands for which method: one line for each in make_adapter.
#pragma once

#include "model/adapters/adapter.h"
#include "model/adapters/peft_folder.h"

namespace rankwise {

enum class AdapterMethod { kLora, kDora, kAdaLora };

struct AdapterOptions {
  AdapterMethod method = AdapterMethod::kLora;
  int64_t rank = 8;  // of AdaLoRA: the initial one
  double alpha = 16.0;
  bool rslora = false;       // of LoRA and DoRA
  float dropout = 0.0f;      // of LoRA and AdaLoRA
  bool from_folder = false;  // parameters are loaded before the first use
};

// What a PEFT folder says about a module, without its dropout.
AdapterOptions adapter_options(const PeftConfig& peft, const std::string& module);

std::unique_ptr<Adapter> make_adapter(const LinearSite& site, const AdapterOptions& options,
                                      uint64_t seed, Arena& arena, Stream& stream);

}  // namespace rankwise
