// SPDX-License-Identifier: Apache-2.0
// Tokenizer of a sentencepiece tokenizer.model (Llama, Llama-2, Mistral).
#pragma once

#include <memory>
#include <string>

#include "runtime/data/tokenizer.h"
#include "runtime/data/tokenizer_config.h"

namespace rankwise {

// The model's own BOS and EOS hold unless the config names others ("bos_token": text, {"content":
// text} or null). Tokens that the config or added_tokens.json put beyond tokenizer.model count in
// vocab_size and may be BOS or EOS, but are never made from text.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(TokenizerFiles files,
                                                        const TokenizerConfig& config,
                                                        const std::string& source);

}  // namespace rankwise
