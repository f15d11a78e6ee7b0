// SPDX-License-Identifier: Apache-2.0
#include "runtime/errors.h"

#include <cstdio>
#include <cstdlib>

namespace rankwise {

std::string quote(std::string_view text) {
  constexpr size_t kLongest = 200;
  std::string result = "'";
  for (const char c : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += c;
    }
  }
  return result + (text.size() > kLongest ? "...'" : "'");
}

namespace detail {

void assertion_failed(const char* condition, const char* file, int line,
                      const std::string& values) {
  std::fprintf(stderr, "rankwise: internal error: %s:%d: %s%s%s\n", file, line, condition,
               values.empty() ? "" : ": ", values.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace detail
}  // namespace rankwise
