// SPDX-License-Identifier: Apache-2.0
// ConfigLeaf: one typed option value: how it is read from a node, checked, and written back.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "launch/config/config_tree.h"
#include "launch/config/train_config.h"

namespace rankwise {

// A leaf refers to a member of TrainConfig. read() throws ConfigError with the message alone; the
// reader puts place and key before it.
class ConfigLeaf {
 public:
  virtual ~ConfigLeaf() = default;
  virtual void read(const ConfigNode& node) const = 0;
  virtual Json value() const = 0;  // null: not set
  // "none | nf4" when only certain names are allowed, otherwise "".
  virtual std::string allowed_names() const { return ""; }
};

template <class T>
struct Range {
  T min = std::numeric_limits<T>::lowest();
  T max = std::numeric_limits<T>::max();
  bool min_allowed = true;  // whether the bounds themselves belong to the range
  bool max_allowed = true;
};

class TextLeaf : public ConfigLeaf {
 public:
  explicit TextLeaf(std::string& value) : value_(value) {}
  void read(const ConfigNode& node) const override;
  Json value() const override { return value_; }

 private:
  std::string& value_;
};

class FlagLeaf : public ConfigLeaf {
 public:
  explicit FlagLeaf(bool& value) : value_(value) {}
  void read(const ConfigNode& node) const override;
  Json value() const override { return value_; }

 private:
  bool& value_;
};

class IntegerLeaf : public ConfigLeaf {
 public:
  IntegerLeaf(int64_t& value, Range<int64_t> range) : value_(value), range_(range) {}
  void read(const ConfigNode& node) const override;
  Json value() const override { return value_; }

 private:
  int64_t& value_;
  Range<int64_t> range_;
};

class RealLeaf : public ConfigLeaf {
 public:
  RealLeaf(double& value, Range<double> range) : value_(value), range_(range) {}
  void read(const ConfigNode& node) const override;
  Json value() const override { return value_; }

 private:
  double& value_;
  Range<double> range_;
};

// A list of exactly two numbers.
class RealPairLeaf : public ConfigLeaf {
 public:
  RealPairLeaf(std::array<double, 2>& value, Range<double> range) : value_(value), range_(range) {}
  void read(const ConfigNode& node) const override;
  Json value() const override { return {value_[0], value_[1]}; }

 private:
  std::array<double, 2>& value_;
  Range<double> range_;
};

class WarmupLeaf : public ConfigLeaf {
 public:
  explicit WarmupLeaf(Warmup& value) : value_(value) {}
  void read(const ConfigNode& node) const override;
  Json value() const override { return value_.value; }

 private:
  Warmup& value_;
};

// One glob, or a list of them.
class PatternsLeaf : public ConfigLeaf {
 public:
  explicit PatternsLeaf(std::vector<std::string>& value) : value_(value) {}
  void read(const ConfigNode& node) const override;
  Json value() const override { return value_.size() == 1 ? Json(value_[0]) : Json(value_); }

 private:
  std::vector<std::string>& value_;
};

std::string join_choices(const std::vector<std::string>& names);
// The index of the name that `node` gives; an error lists the names this version offers.
size_t read_choice(const ConfigNode& node, const std::vector<std::string>& names);

template <class Enum>
class ChoiceLeaf : public ConfigLeaf {
 public:
  using Names = std::vector<std::pair<std::string, Enum>>;
  // An enumerator without a name is printed as "not set".
  ChoiceLeaf(Enum& value, Names names) : value_(value), names_(std::move(names)) {}

  void read(const ConfigNode& node) const override {
    value_ = names_[read_choice(node, names())].second;
  }
  Json value() const override {
    for (const auto& [name, choice] : names_) {
      if (choice == value_) return name;
    }
    return nullptr;
  }
  std::string allowed_names() const override { return join_choices(names()); }

 private:
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, choice] : names_) names.push_back(name);
    return names;
  }

  Enum& value_;
  Names names_;
};

// A value that may be absent; `Leaf` reads and checks it when it is there. `null` takes it away
// again, so that an override can (train.steps=null train.epochs=3).
template <class Leaf, class T, class... Rules>
class OptionalLeaf : public ConfigLeaf {
 public:
  explicit OptionalLeaf(std::optional<T>& value, Rules... rules)
      : value_(value), rules_(std::move(rules)...) {}

  void read(const ConfigNode& node) const override {
    if (node.kind == ConfigNode::Kind::kNull) {
      value_.reset();
      return;
    }
    T inner{};
    std::apply([&](const Rules&... rules) { Leaf(inner, rules...).read(node); }, rules_);
    value_ = std::move(inner);
  }
  Json value() const override { return value_ ? Json(*value_) : Json(nullptr); }

 private:
  std::optional<T>& value_;
  std::tuple<Rules...> rules_;
};

}  // namespace rankwise
