// SPDX-License-Identifier: Apache-2.0
// Tokenizer: text to token ids and back, as the model folder prescribes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rankwise {

// (file name without folder, content) of the files that define a tokenizer.
using TokenizerFiles = std::vector<std::pair<std::string, std::string>>;

// Immutable once loaded: encode and decode may run in several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of the text alone: no BOS, no EOS. Text that looks like a special token stays text.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  // Special tokens and ids that the tokenizer does not know (a model's vocabulary may be padded)
  // are left out; invalid UTF-8 becomes U+FFFD.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual int32_t bos_id() const = 0;  // -1 when there is none
  virtual int32_t eos_id() const = 0;  // -1 when there is none
  virtual bool adds_bos() const = 0;   // tokenizer_config.json: add_bos_token
  // Files that must travel with exported models and adapters, byte for byte as they were loaded.
  virtual TokenizerFiles files() const = 0;
};

// folder: an HF model folder. A tokenizer_config.json with "tokenizer_class":
// "RankwiseByteTokenizer" -> bytes; tokenizer.model -> sentencepiece. FormatError says what was
// looked for.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& folder);
// The same from contents that lie elsewhere (a store); `source` begins every message.
std::unique_ptr<Tokenizer> load_tokenizer_from_files(TokenizerFiles files,
                                                     const std::string& source);

// The byte-level tokenizer of the embedded default: id = byte + 3; 0 pad, 1 BOS, 2 EOS; 259 ids.
std::unique_ptr<Tokenizer> make_byte_tokenizer();
// tokenizer_config.json that load_tokenizer recognises as that tokenizer.
std::string byte_tokenizer_config();

}  // namespace rankwise
