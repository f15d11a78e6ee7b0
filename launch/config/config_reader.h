// SPDX-License-Identifier: Apache-2.0
// ConfigTreeReader: fills a TrainConfig from a tree, and leaves no key of the tree unread.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "launch/config/config_schema.h"

namespace rankwise {

class ConfigTreeReader : public ConfigVisitor {
 public:
  // `source` names the file in messages about keys that are not there.
  ConfigTreeReader(const ConfigNode& root, std::string_view source);

  void leaf(const ConfigKey& key, const ConfigLeaf& leaf) override;
  void section(const ConfigKey& key, const std::function<void()>& describe) override;
  void list(const ConfigKey& key, size_t size, const std::function<void(size_t)>& resize,
            const std::function<void(size_t)>& describe) override;

  // After the visit: unknown keys of the root, then missing required ones.
  void finish();
  // A ConfigError about a key ("train.steps") at the place where it stands, if it does.
  [[noreturn]] void fail(std::string_view path, std::string_view message) const;

 private:
  // The section being visited; `node` is null when the tree does not have it.
  struct Level {
    const ConfigNode* node;
    std::string path;
    std::vector<std::string> known_keys;
  };

  // Child of the current section under this key, or null; notes the key as known.
  const ConfigNode* take(const ConfigKey& key);
  std::string path_of(const std::string& key) const;
  void visit_level(const ConfigNode* node, const std::string& path,
                   const std::function<void()>& describe);
  void refuse_unknown_keys(const Level& level) const;

  std::string source_;
  std::vector<Level> levels_;
  std::map<std::string, std::string, std::less<>> places_;
  std::vector<std::string> missing_;
};

}  // namespace rankwise
