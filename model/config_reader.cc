// SPDX-License-Identifier: Apache-2.0
#include "model/config_reader.h"

#include <cmath>
#include <limits>
#include <utility>

#include "runtime/errors.h"

namespace rankwise {
namespace {

constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();

// A value for a message: on one line, long ones cut.
std::string shown(const Json& value) {
  constexpr size_t kLongest = 200;
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > kLongest) text.replace(kLongest, text.npos, "...");
  return text;
}

}  // namespace

ConfigReader::ConfigReader(const Json& json, std::string source, std::string prefix)
    : json_(&json), source_(std::move(source)), prefix_(std::move(prefix)) {
  if (!json.is_object()) {
    const std::string key = prefix_.substr(0, prefix_.size() - (prefix_.empty() ? 0 : 1));
    throw FormatError(fmt::format("{}: {}expected an object, found {}", source_,
                                  key.empty() ? "" : key + ": ", json.type_name()));
  }
}

void ConfigReader::fail(const std::string& key, const std::string& reason) const {
  throw FormatError(fmt::format("{}: {}{}: {}", source_, prefix_, key, reason));
}

bool ConfigReader::has(const std::string& key) const {
  const auto found = json_->find(key);
  return found != json_->end() && !found->is_null();
}

bool ConfigReader::is_null(const std::string& key) const {
  const auto found = json_->find(key);
  return found != json_->end() && found->is_null();
}

const Json& ConfigReader::at(const std::string& key) const {
  if (!has(key)) fail(key, "missing");
  return *json_->find(key);
}

ConfigReader ConfigReader::object(const std::string& key) const {
  return ConfigReader(at(key), source_, prefix_ + key + ".");
}

int64_t ConfigReader::positive(const std::string& key) const {
  const Json& value = at(key);
  if (!value.is_number_integer()) fail(key, "expected an integer, found " + shown(value));
  const bool fits =
      !value.is_number_unsigned() || value.get<uint64_t>() <= static_cast<uint64_t>(kLargest);
  if (!fits || value.get<int64_t>() < 1 || value.get<int64_t>() > kLargest) {
    fail(key, fmt::format("{} is outside 1..{}", shown(value), kLargest));
  }
  return value.get<int64_t>();
}

int64_t ConfigReader::positive_or(const std::string& key, int64_t otherwise) const {
  return has(key) ? positive(key) : otherwise;
}

double ConfigReader::real(const std::string& key) const {
  const Json& value = at(key);
  if (!value.is_number()) fail(key, "expected a number, found " + shown(value));
  const double number = value.get<double>();
  if (!std::isfinite(number)) fail(key, "not a finite number");
  return number;
}

double ConfigReader::real_or(const std::string& key, double otherwise) const {
  return has(key) ? real(key) : otherwise;
}

bool ConfigReader::boolean_or(const std::string& key, bool otherwise) const {
  if (!has(key)) return otherwise;
  const Json& value = at(key);
  if (!value.is_boolean()) fail(key, "expected true or false, found " + shown(value));
  return value.get<bool>();
}

std::string ConfigReader::text(const std::string& key) const {
  const Json& value = at(key);
  if (!value.is_string()) fail(key, "expected a text, found " + shown(value));
  return value.get<std::string>();
}

std::string ConfigReader::text_or(const std::string& key, const std::string& otherwise) const {
  return has(key) ? text(key) : otherwise;
}

std::vector<int32_t> ConfigReader::token_ids(const std::string& key) const {
  if (!has(key)) return {};
  const Json& value = at(key);
  const Json list = value.is_array() ? value : Json::array({value});
  std::vector<int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
        id.get<int64_t>() > std::numeric_limits<int32_t>::max()) {
      fail(key, "expected a token id or a list of them, found " + shown(value));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

}  // namespace rankwise
