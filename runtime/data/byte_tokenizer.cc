// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/byte_tokenizer.h"

#include <fmt/format.h>

#include "runtime/data/utf8.h"

namespace rankwise {
namespace {

constexpr int32_t kBos = 1;
constexpr int32_t kEos = 2;
constexpr int32_t kFirstByte = 3;
constexpr int32_t kVocabSize = kFirstByte + 256;

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer(TokenizerFiles files, bool adds_bos)
      : files_(std::move(files)), adds_bos_(adds_bos) {}

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    ids.reserve(text.size());
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c) + kFirstByte);
    return ids;
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string bytes;
    bytes.reserve(ids.size());
    for (const int32_t id : ids) {
      if (id >= kFirstByte && id < kVocabSize) bytes.push_back(static_cast<char>(id - kFirstByte));
    }
    return replace_invalid_utf8(bytes);
  }

  int64_t vocab_size() const override { return kVocabSize; }
  int32_t bos_id() const override { return kBos; }
  int32_t eos_id() const override { return kEos; }
  bool adds_bos() const override { return adds_bos_; }
  TokenizerFiles files() const override { return files_; }

 private:
  TokenizerFiles files_;
  bool adds_bos_;
};

}  // namespace

std::string byte_tokenizer_config() {
  return fmt::format("{{\n  \"tokenizer_class\": \"{}\",\n  \"add_bos_token\": true\n}}\n",
                     kByteTokenizerClass);
}

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
  return std::make_unique<ByteTokenizer>(
      TokenizerFiles{{"tokenizer_config.json", byte_tokenizer_config()}}, true);
}

std::unique_ptr<Tokenizer> make_byte_tokenizer(TokenizerFiles files,
                                               const TokenizerConfig& config) {
  return std::make_unique<ByteTokenizer>(std::move(files), config.add_bos_token.value_or(true));
}

}  // namespace rankwise
