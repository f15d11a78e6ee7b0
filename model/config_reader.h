// SPDX-License-Identifier: Apache-2.0
// ConfigReader: typed, checked access to the keys of a Hugging Face config object.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/io/json.h"

namespace rankwise {

// Every failure is a FormatError "<source>: <key>: ...". A key that is null counts as absent.
class ConfigReader {
 public:
  // `json` must outlive the reader and be an object. `prefix` begins keys in messages
  // ("rope_scaling.").
  ConfigReader(const Json& json, std::string source, std::string prefix = "");

  bool has(const std::string& key) const;        // present and not null
  bool is_null(const std::string& key) const;    // present and null
  const Json& at(const std::string& key) const;  // present and not null, or FormatError
  ConfigReader object(const std::string& key) const;

  int64_t positive(const std::string& key) const;  // 1 .. 2^31 - 1
  int64_t positive_or(const std::string& key, int64_t otherwise) const;
  double real(const std::string& key) const;  // finite
  double real_or(const std::string& key, double otherwise) const;
  bool boolean_or(const std::string& key, bool otherwise) const;
  std::string text(const std::string& key) const;
  std::string text_or(const std::string& key, const std::string& otherwise) const;
  std::vector<int32_t> token_ids(
      const std::string& key) const;  // integer or list; empty when absent

  [[noreturn]] void fail(const std::string& key, const std::string& reason) const;

 private:
  const Json* json_;
  std::string source_;
  std::string prefix_;
};

}  // namespace rankwise
