// SPDX-License-Identifier: Apache-2.0
// Readers of untrusted input: each does with bytes what the program does with a file of that kind.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rankwise::testing {

// An Error thrown is a refusal. A crash, any other exception or a file opened outside the folder of
// the input (std::logic_error) is a fault of the reader.
void read_safetensors(std::string_view bytes);    // every tensor, as stored and converted
void read_weight_index(std::string_view bytes);   // with the shards that it names
void read_model_config(std::string_view bytes);   // config.json, and what is computed from it
void read_tokenizer(std::string_view bytes);      // tokenizer_config.json, NUL, added_tokens.json
void read_training_yaml(std::string_view bytes);  // a configuration, printed and read again
// A manifest without its seal: that is added here, since no change would get past it.
void read_checkpoint_manifest(std::string_view bytes);
void read_store(std::string_view bytes);  // an HDF5 store: all tensors, files, attributes

struct InputReader {
  std::string name;  // of its folder in tests/fuzz/corpus
  void (*read)(std::string_view bytes);
};
const std::vector<InputReader>& input_readers();

// The message of the refusal; empty when the input is accepted. std::logic_error when the message
// is not one line of bounded length.
std::string refusal_of(void (*read)(std::string_view bytes), std::string_view bytes);

}  // namespace rankwise::testing
