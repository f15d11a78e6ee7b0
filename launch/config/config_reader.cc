// SPDX-License-Identifier: Apache-2.0
#include "launch/config/config_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "launch/config/nearest_name.h"
#include "runtime/errors.h"

namespace rankwise {

namespace {

[[noreturn]] void fail_at(std::string_view place, std::string_view path, std::string_view message) {
  throw ConfigError(fmt::format("{}: {}: {}", place, path, message));
}

}  // namespace

ConfigTreeReader::ConfigTreeReader(const ConfigNode& root, std::string_view source)
    : source_(source) {
  if (root.kind != ConfigNode::Kind::kMap) {
    throw ConfigError(fmt::format("{}: expected sections (\"model:\", \"data:\", ...), got {}",
                                  root.place, root.description()));
  }
  levels_.push_back({&root, "", {}});
}

void ConfigTreeReader::leaf(const ConfigKey& key, const ConfigLeaf& leaf) {
  const ConfigNode* node = take(key);
  if (node == nullptr) return;
  const std::string path = path_of(key.name);
  try {
    leaf.read(*node);
  } catch (const ConfigError& error) {
    fail_at(node->place, path, error.what());
  }
}

void ConfigTreeReader::section(const ConfigKey& key, const std::function<void()>& describe) {
  const ConfigNode* node = take(key);
  visit_level(node, path_of(key.name), describe);
}

void ConfigTreeReader::list(const ConfigKey& key, size_t, const std::function<void(size_t)>& resize,
                            const std::function<void(size_t)>& describe) {
  const ConfigNode* node = take(key);
  if (node == nullptr) return;
  const std::string path = path_of(key.name);
  if (node->kind != ConfigNode::Kind::kList) {
    fail_at(node->place, path, fmt::format("expected a list, got {}", node->description()));
  }
  if (key.required && node->items.empty()) fail_at(node->place, path, "must not be empty");
  resize(node->items.size());
  for (size_t i = 0; i < node->items.size(); ++i) {
    visit_level(&node->items[i], fmt::format("{}.{}", path, i), [&] { describe(i); });
  }
}

void ConfigTreeReader::finish() {
  refuse_unknown_keys(levels_.front());
  if (missing_.empty()) return;
  throw ConfigError(fmt::format("{}: required: {}", source_, fmt::join(missing_, ", ")));
}

void ConfigTreeReader::fail(std::string_view path, std::string_view message) const {
  const auto place = places_.find(path);
  fail_at(place == places_.end() ? source_ : place->second, path, message);
}

const ConfigNode* ConfigTreeReader::take(const ConfigKey& key) {
  Level& level = levels_.back();
  level.known_keys.push_back(key.name);
  const ConfigNode* node = level.node == nullptr ? nullptr : level.node->find(key.name);
  if (node != nullptr) {
    places_[path_of(key.name)] = node->place;
    if (!key.unused_because.empty()) {
      fail_at(node->place, path_of(key.name), fmt::format("has no use: {}", key.unused_because));
    }
  } else if (key.required) {
    missing_.push_back(path_of(key.name));
  }
  return node;
}

std::string ConfigTreeReader::path_of(const std::string& key) const {
  const std::string& section = levels_.back().path;
  return section.empty() ? key : section + "." + key;
}

void ConfigTreeReader::visit_level(const ConfigNode* node, const std::string& path,
                                   const std::function<void()>& describe) {
  if (node != nullptr && node->kind != ConfigNode::Kind::kMap) {
    fail_at(node->place, path, fmt::format("expected a section, got {}", node->description()));
  }
  levels_.push_back({node, path, {}});
  describe();
  refuse_unknown_keys(levels_.back());
  levels_.pop_back();
}

void ConfigTreeReader::refuse_unknown_keys(const Level& level) const {
  if (level.node == nullptr) return;
  for (const ConfigNode::Entry& entry : level.node->entries) {
    const auto& known = level.known_keys;
    if (std::find(known.begin(), known.end(), entry.key) != known.end()) continue;
    const std::string nearest = nearest_name(entry.key, known);
    const std::string hint = nearest.empty() ? fmt::format("valid here: {}", fmt::join(known, ", "))
                                             : fmt::format("did you mean '{}'?", nearest);
    const std::string quoted = quote(entry.key.substr(0, 100));
    const std::string shown = quoted.substr(1, quoted.size() - 2);
    const std::string path = level.path.empty() ? shown : level.path + "." + shown;
    fail_at(entry.key_place, path, "unknown key, " + hint);
  }
}

}  // namespace rankwise
