// SPDX-License-Identifier: Apache-2.0
// `rankwise generate MODEL --prompt TEXT`: greedy or sampled text.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "launch/config/train_config.h"
#include "launch/verbs/verb.h"
#include "model/generate.h"

namespace rankwise {

struct GenerateTextOptions {
  std::string model;    // HF folder or quantised store
  std::string adapter;  // PEFT folder; empty: the base alone
  bool quantize_nf4 = false;
  DeviceChoice device = DeviceChoice::kAuto;
  ComputeType compute = ComputeType::kAuto;
  std::vector<std::string> prompts;
  GenerateOptions sampling;  // stop_ids are those of the model
};

// One prompt per line; of a .jsonl file the field "prompt" of each row. ConfigError when the file
// is missing, DataError naming the row.
std::vector<std::string> read_prompts(const std::string& path);

// Calls emit(prompt index, continuation) as each is ready. Every prompt starts from the same seed:
// its text does not depend on the others.
void generate_text(const GenerateTextOptions& options,
                   const std::function<void(size_t, const std::string&)>& emit);

}  // namespace rankwise
