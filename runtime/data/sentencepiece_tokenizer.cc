// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>

#include "runtime/data/utf8.h"
#include "runtime/errors.h"

namespace rankwise {
namespace {

using sentencepiece::SentencePieceProcessor;

class SentencepieceTokenizer final : public Tokenizer {
 public:
  SentencepieceTokenizer(TokenizerFiles files, const TokenizerConfig& config,
                         const std::string& source)
      : files_(std::move(files)) {
    const auto status =
        processor_.LoadFromSerializedProto(*find_content(files_, "tokenizer.model"));
    if (!status.ok()) {
      throw FormatError(fmt::format("{}/tokenizer.model: not a sentencepiece model", source));
    }
    vocab_size_ = processor_.GetPieceSize();
    for (const auto& [content, id] : config.added_tokens)
      vocab_size_ = std::max(vocab_size_, id + 1);
    bos_ = config.bos_token ? named_token(*config.bos_token, config, source) : processor_.bos_id();
    eos_ = config.eos_token ? named_token(*config.eos_token, config, source) : processor_.eos_id();
    adds_bos_ = bos_ >= 0 && config.add_bos_token.value_or(true);
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int> ids;
    const auto status = processor_.Encode(text, &ids);
    RW_ASSERT(status.ok(), "{}", status.ToString());  // fails for an unloaded model only
    return ids;
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::vector<int> text_ids;
    text_ids.reserve(ids.size());
    for (const int32_t id : ids) {
      const bool known = id >= 0 && id < processor_.GetPieceSize();
      if (known && !processor_.IsControl(id) && !processor_.IsUnknown(id)) text_ids.push_back(id);
    }
    std::string text;
    const auto status = processor_.Decode(text_ids, &text);
    RW_ASSERT(status.ok(), "{}", status.ToString());
    return replace_invalid_utf8(text);  // a model's pieces may be any bytes
  }

  int64_t vocab_size() const override { return vocab_size_; }
  int32_t bos_id() const override { return bos_; }
  int32_t eos_id() const override { return eos_; }
  bool adds_bos() const override { return adds_bos_; }
  TokenizerFiles files() const override { return files_; }

 private:
  int32_t named_token(const std::string& token, const TokenizerConfig& config,
                      const std::string& source) const {
    if (token.empty()) return -1;
    for (const auto& [content, id] : config.added_tokens) {
      if (content == token) return id;
    }
    const int32_t id = processor_.PieceToId(token);  // the unknown piece when there is none
    if (id >= 0 && processor_.IdToPiece(id) == token) return id;
    throw FormatError(fmt::format(
        "{}/tokenizer_config.json: token {} is neither in tokenizer.model nor an added token",
        source, quote(token)));
  }

  TokenizerFiles files_;
  SentencePieceProcessor processor_;
  int32_t vocab_size_ = 0;
  int32_t bos_ = -1;
  int32_t eos_ = -1;
  bool adds_bos_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(TokenizerFiles files,
                                                        const TokenizerConfig& config,
                                                        const std::string& source) {
  return std::make_unique<SentencepieceTokenizer>(std::move(files), config, source);
}

}  // namespace rankwise
