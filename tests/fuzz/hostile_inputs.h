// SPDX-License-Identifier: Apache-2.0
// Inputs made to break a reader: one per rule, limit or trick, and legal ones at the limits.
#pragma once

#include <string>
#include <vector>

namespace rankwise::testing {

struct HostileInput {
  std::string name;  // of its test case
  std::string bytes;
  std::string refusal;  // part of the message; empty: the input is legal and accepted
};

std::vector<HostileInput> hostile_safetensors();
std::vector<HostileInput> hostile_weight_indexes();
std::vector<HostileInput> hostile_model_configs();
std::vector<HostileInput> hostile_tokenizers();
std::vector<HostileInput> hostile_training_yamls();
std::vector<HostileInput> hostile_checkpoint_manifests();
std::vector<HostileInput> hostile_stores();

// The set of the reader of this name (input_readers()).
std::vector<HostileInput> hostile_inputs_of(const std::string& reader);

// `text`, `count` times.
std::string repeated(const std::string& text, size_t count);

}  // namespace rankwise::testing
