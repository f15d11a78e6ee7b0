// SPDX-License-Identifier: Apache-2.0
// safetensors files made by hand, right or wrong.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>

namespace rankwise::testing {

// Length, header, `data_bytes` bytes of data that count up.
inline std::string safetensors_bytes(const std::string& header, size_t data_bytes = 0) {
  const uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

// One header entry.
inline std::string entry(const std::string& name, const std::string& dtype,
                         const std::string& shape, const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape,
                     offsets);
}

// Members "name":value as a JSON object.
inline std::string object_of(std::initializer_list<std::string> members) {
  return fmt::format("{{{}}}", fmt::join(members, ","));
}

}  // namespace rankwise::testing
