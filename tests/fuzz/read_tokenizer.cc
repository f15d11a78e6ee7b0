// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "runtime/data/tokenizer.h"
#include "runtime/data/tokenizer_config.h"
#include "tests/fuzz/readers.h"

namespace rankwise::testing {

void read_tokenizer(std::string_view bytes) {
  const size_t end = bytes.find('\0');
  TokenizerFiles files = {{"tokenizer_config.json", std::string(bytes.substr(0, end))}};
  if (end != bytes.npos) files.emplace_back("added_tokens.json", bytes.substr(end + 1));
  read_tokenizer_config(files, "model");
  const auto tokenizer = load_tokenizer_from_files(std::move(files), "model");
  if (tokenizer->decode(tokenizer->encode("text")) != "text") {
    throw std::logic_error("text does not survive the tokenizer");
  }
}

}  // namespace rankwise::testing
