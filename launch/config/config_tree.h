// SPDX-License-Identifier: Apache-2.0
// ConfigNode: YAML as a tree in which every node knows where it stands, and nothing is ambiguous.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rankwise {

inline constexpr int64_t kMaxConfigBytes = 1 << 20;
inline constexpr int kMaxConfigDepth = 32;
inline constexpr int kMaxConfigValues = 10'000;  // keys count too
// Stands for file, line and column of what an override says.
inline constexpr std::string_view kOverridePlace = "command line";

struct ConfigNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  struct Entry;

  Kind kind = Kind::kNull;
  std::string place;    // "run.yaml:3:7", or kOverridePlace
  std::string text;     // of a scalar
  bool quoted = false;  // a quoted scalar is text, never a number or a truth value
  std::vector<ConfigNode> items;
  std::vector<Entry> entries;  // of a map, in file order; keys are unique

  const ConfigNode* find(std::string_view key) const;  // null when absent
  ConfigNode* find(std::string_view key);
  // "text", "a list", ... for messages about a wrong type.
  std::string description() const;
};

struct ConfigNode::Entry {
  std::string key;
  std::string key_place;
  ConfigNode value;
};

// Refused with a ConfigError that begins with the place: aliases and anchors, merge keys, tags,
// duplicate keys, keys that are not plain scalars, more than one document, more than
// kMaxConfigBytes, kMaxConfigDepth or kMaxConfigValues, control characters, invalid UTF-8 and
// escapes that give it, NUL or DEL, a quote left open, an empty document, anything that is not YAML.
ConfigNode parse_config_tree(std::string_view yaml, std::string_view source);
// File of at most kMaxConfigBytes.
ConfigNode read_config_tree(const std::string& path);

// "adapt.0.rank=8": sets one value, which is YAML too ("data.train=[{path: a.jsonl}]"). Missing
// maps on the way are made; so is the first item of a missing list. Giving a key twice is an error.
void apply_overrides(ConfigNode& root, const std::vector<std::string>& overrides);

}  // namespace rankwise
