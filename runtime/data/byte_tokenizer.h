// SPDX-License-Identifier: Apache-2.0
// The byte-level tokenizer as load_tokenizer makes it from files.
#pragma once

#include <memory>

#include "runtime/data/tokenizer.h"
#include "runtime/data/tokenizer_config.h"

namespace rankwise {

inline constexpr const char* kByteTokenizerClass = "RankwiseByteTokenizer";

std::unique_ptr<Tokenizer> make_byte_tokenizer(TokenizerFiles files, const TokenizerConfig& config);

}  // namespace rankwise
