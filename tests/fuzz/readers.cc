// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/readers.h"

#include <stdexcept>

#include "runtime/errors.h"
#include "tests/fuzz/sandbox.h"

namespace rankwise::testing {

const std::vector<InputReader>& input_readers() {
  static const std::vector<InputReader> readers = {
      {"safetensors", read_safetensors},
      {"weight_index", read_weight_index},
      {"model_config", read_model_config},
      {"tokenizer", read_tokenizer},
      {"training_yaml", read_training_yaml},
      {"store", read_store},
      {"checkpoint_manifest", read_checkpoint_manifest}};
  return readers;
}

std::string refusal_of(void (*read)(std::string_view bytes), std::string_view bytes) {
  constexpr size_t kLongestMessage = 2000;
  std::string message;
  try {
    read(bytes);
  } catch (const Error& error) {
    message = error.what();
    if (message.empty()) throw std::logic_error("a refusal without a message");
  }
  if (message.size() > kLongestMessage) throw std::logic_error("long: " + message);
  for (const char c : message) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) throw std::logic_error("not one plain line: " + message);
  }
  if (Sandbox::instance().outside_was_opened()) {
    throw std::logic_error("opened a file outside its folder; " + message);
  }
  return message;
}

}  // namespace rankwise::testing
