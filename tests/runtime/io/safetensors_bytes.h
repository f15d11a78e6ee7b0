// SPDX-License-Identifier: Apache-2.0
// safetensors files made by hand, right or wrong.
#pragma once

#include <cstdint>
#include <cstring>
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
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

}  // namespace rankwise::testing
