// SPDX-License-Identifier: Apache-2.0
// SHA-256 digests of files and memory, by OpenSSL.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace rankwise {

// 64 lower-case hexadecimal digits. Errors of RegularFile.
std::string sha256_hex(std::span<const std::byte> bytes);
std::string sha256_file(const std::string& path);

}  // namespace rankwise
