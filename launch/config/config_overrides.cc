// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "launch/config/config_tree.h"
#include "runtime/errors.h"

namespace rankwise {

namespace {

[[noreturn]] void fail_override(std::string_view path, std::string_view message) {
  throw ConfigError(fmt::format("{}: {}: {}", kOverridePlace, path, message));
}

bool is_index(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> segments;
  size_t begin = 0;
  while (true) {
    const size_t end = std::min(path.find('.', begin), path.size());
    if (end == begin) fail_override(path, "expected key.key=value");
    segments.emplace_back(path.substr(begin, end - begin));
    if (end == path.size()) return segments;
    begin = end + 1;
  }
}

// The child that `segment` names, made when it is missing.
ConfigNode& descend(ConfigNode& node, const std::string& segment, std::string_view path) {
  const bool made_here = node.kind == ConfigNode::Kind::kNull;
  if (made_here) {
    node.kind = is_index(segment) ? ConfigNode::Kind::kList : ConfigNode::Kind::kMap;
    node.place = kOverridePlace;
  }
  if (node.kind == ConfigNode::Kind::kList) {
    size_t index = 0;
    const char* end = segment.data() + segment.size();
    const auto parsed = std::from_chars(segment.data(), end, index);
    if (!is_index(segment) || parsed.ec != std::errc()) {
      fail_override(path, fmt::format("'{}' must be the number of a list entry, from 0", segment));
    }
    if (made_here && index == 0) node.items.emplace_back();
    if (index >= node.items.size()) {
      fail_override(path, fmt::format("there is no entry {}, the list has {}", index,
                                      made_here ? 0 : node.items.size()));
    }
    return node.items[index];
  }
  if (node.kind != ConfigNode::Kind::kMap) {
    fail_override(
        path, fmt::format("'{}' lies inside {}, which is no section", segment, node.description()));
  }
  if (ConfigNode* child = node.find(segment)) return *child;
  node.entries.push_back({segment, std::string(kOverridePlace), ConfigNode()});
  return node.entries.back().value;
}

}  // namespace

void apply_overrides(ConfigNode& root, const std::vector<std::string>& overrides) {
  std::set<std::string> given;
  for (const std::string& override_text : overrides) {
    const size_t equals = override_text.find('=');
    if (equals == std::string::npos || equals == 0) {
      fail_override(override_text, "expected key=value");
    }
    const std::string path = override_text.substr(0, equals);
    const std::string value = override_text.substr(equals + 1);
    if (!given.insert(path).second) fail_override(path, "is given twice");
    if (value.find_first_not_of(" \t") == std::string::npos) fail_override(path, "has no value");
    const std::vector<std::string> segments = split_path(path);
    if (segments.size() > kMaxConfigDepth) fail_override(path, "nested too deeply");
    ConfigNode* node = &root;
    for (const std::string& segment : segments) node = &descend(*node, segment, path);
    *node = parse_config_tree(value, fmt::format("{}: {}", kOverridePlace, path));
  }
}

}  // namespace rankwise
