// SPDX-License-Identifier: Apache-2.0
// UTF-8 well-formedness (Unicode 15, table 3-7) of text from outside.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace rankwise {

// Bytes of the well-formed sequence that begins at `at` (1 to 4); 0 when none does.
size_t utf8_sequence_length(std::string_view text, size_t at);
// Where the first byte stands that begins no well-formed sequence; npos when there is none.
size_t find_invalid_utf8(std::string_view text);
bool is_valid_utf8(std::string_view text);
// Every byte that belongs to no well-formed sequence becomes one U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

}  // namespace rankwise
