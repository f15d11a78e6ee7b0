// SPDX-License-Identifier: Apache-2.0
// Names inside a quantised store, shared by its writer and its reader.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/errors.h"

namespace rankwise::store {

inline constexpr const char* kFormat = "rankwise-quantized-store";
inline constexpr int64_t kVersion = 1;
inline constexpr const char* kNf4 = "nf4";
inline constexpr std::string_view kCodes = ".codes";
inline constexpr std::string_view kAbsmax = ".absmax";
inline constexpr std::string_view kNestedAbsmax = ".nested_absmax";
inline constexpr std::string_view kNestedMap = ".nested_map";

inline std::string tensor_place(std::string_view name, std::string_view part = "") {
  return fmt::format("/tensors/{}{}", name, part);
}

inline std::string file_place(std::string_view name) { return fmt::format("/files/{}", name); }

// FormatError for a name that HDF5 would take for a path.
inline void check_name(const std::string& path, const std::string& name) {
  const bool plain = !name.empty() && name != "." && name.find('/') == std::string::npos &&
                     name.find('\0') == std::string::npos;
  if (!plain) {
    throw FormatError(fmt::format("{}: {} cannot be a name in a store", path, quote(name)));
  }
}

}  // namespace rankwise::store
