// SPDX-License-Identifier: Apache-2.0
// The schema of TrainConfig: every key once, shown to whoever reads, prints or converts a config.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "launch/config/config_leaf.h"

namespace rankwise {

struct ConfigKey {
  std::string name;
  std::string help;
  bool required = false;
  // Set when the key means nothing beside the values before it ("method is frozen"): giving it is
  // an error, and it is not printed.
  std::string unused_because = {};
};

class ConfigVisitor {
 public:
  virtual ~ConfigVisitor() = default;

  virtual void leaf(const ConfigKey& key, const ConfigLeaf& leaf) = 0;
  // `describe` visits the keys of the section. When key.unused_because is set, so is that of all of
  // them.
  virtual void section(const ConfigKey& key, const std::function<void()>& describe) = 0;
  // A list of sections: `resize` sets the number of items to their defaults, `describe` visits item
  // i.
  virtual void list(const ConfigKey& key, size_t size, const std::function<void(size_t)>& resize,
                    const std::function<void(size_t)>& describe) = 0;
};

// Visits all keys in printing order. Keys are visited one by one, so that what a reading visitor
// has stored decides whether a later key is used.
void visit_config(TrainConfig& config, ConfigVisitor& visitor);

}  // namespace rankwise
