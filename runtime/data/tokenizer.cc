// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/tokenizer.h"

#include <array>
#include <filesystem>

#include "runtime/data/byte_tokenizer.h"
#include "runtime/data/sentencepiece_tokenizer.h"
#include "runtime/data/tokenizer_config.h"
#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"

namespace rankwise {
namespace {

constexpr std::array kTokenizerFileNames = {"tokenizer.model",
                                            "tokenizer.json",
                                            "tokenizer_config.json",
                                            "special_tokens_map.json",
                                            "added_tokens.json",
                                            "vocab.json",
                                            "merges.txt",
                                            "chat_template.jinja"};

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& folder) {
  TokenizerFiles files;
  for (const char* name : kTokenizerFileNames) {
    const std::string path = folder + "/" + name;
    std::error_code ignored;  // what cannot be looked at is reported as absent
    if (std::filesystem::is_regular_file(path, ignored)) files.emplace_back(name, read_file(path));
  }
  return load_tokenizer_from_files(std::move(files), folder);
}

std::unique_ptr<Tokenizer> load_tokenizer_from_files(TokenizerFiles files,
                                                     const std::string& source) {
  const TokenizerConfig config = read_tokenizer_config(files, source);
  if (config.tokenizer_class == kByteTokenizerClass) {
    return make_byte_tokenizer(std::move(files), config);
  }
  if (find_content(files, "tokenizer.model") != nullptr) {
    return make_sentencepiece_tokenizer(std::move(files), config, source);
  }
  throw FormatError(fmt::format(
      "{}: no tokenizer: looked for tokenizer.model (sentencepiece) and for tokenizer_config.json "
      "with tokenizer_class {}{}",
      source, kByteTokenizerClass,
      find_content(files, "tokenizer.json") != nullptr
          ? "; tokenizer.json is there, but alone it is not supported"
          : ""));
}

}  // namespace rankwise
