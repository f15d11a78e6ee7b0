// SPDX-License-Identifier: Apache-2.0
// Strict JSON reading: duplicate keys, deep nesting and oversized files are errors with a place.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace rankwise {

// Key order is kept: chat templates, adapter patterns and rank patterns depend on it.
using Json = nlohmann::ordered_json;

struct JsonLimits {
  int64_t max_bytes = 100'000'000;
  int max_depth = 64;
};

// `source` (a file name, or "file:row") begins every message. Throws FormatError with byte
// position.
Json parse_json(std::string_view text, std::string_view source, const JsonLimits& limits = {});
Json read_json_file(const std::string& path, const JsonLimits& limits = {});

}  // namespace rankwise
