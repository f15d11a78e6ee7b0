// SPDX-License-Identifier: Apache-2.0
// ConfigPrinter and ConfigToJson: a config as commented YAML, and as JSON.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "launch/config/config_schema.h"

namespace rankwise {

class ConfigPrinter : public ConfigVisitor {
 public:
  void leaf(const ConfigKey& key, const ConfigLeaf& leaf) override;
  void section(const ConfigKey& key, const std::function<void()>& describe) override;
  void list(const ConfigKey& key, size_t size, const std::function<void(size_t)>& resize,
            const std::function<void(size_t)>& describe) override;
  const std::string& text() const { return text_; }

 private:
  void add_line(std::string_view content, std::string_view help);

  std::string text_;
  int indent_ = 0;
  bool starts_item_ = false;  // the next line carries the dash of a list item
};

class ConfigToJson : public ConfigVisitor {
 public:
  void leaf(const ConfigKey& key, const ConfigLeaf& leaf) override;
  void section(const ConfigKey& key, const std::function<void()>& describe) override;
  void list(const ConfigKey& key, size_t size, const std::function<void(size_t)>& resize,
            const std::function<void(size_t)>& describe) override;
  Json take() { return std::move(root_); }

 private:
  Json visit_object(const std::function<void()>& describe);

  Json root_ = Json::object();
  Json* current_ = &root_;
};

}  // namespace rankwise
