// SPDX-License-Identifier: Apache-2.0
// TokenizerConfig: what tokenizer_config.json and added_tokens.json say, typed and checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/data/tokenizer.h"

namespace rankwise {

struct TokenizerConfig {
  std::string tokenizer_class;
  std::optional<bool> add_bos_token;
  // Unset: not mentioned, the tokenizer's own holds. Empty: null, there is none.
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::vector<std::pair<std::string, int32_t>> added_tokens;  // content, id
};

// Either file may be absent. FormatError begins with "source/file".
TokenizerConfig read_tokenizer_config(const TokenizerFiles& files, const std::string& source);

// Content of a file by name; null when absent.
const std::string* find_content(const TokenizerFiles& files, std::string_view name);

}  // namespace rankwise
