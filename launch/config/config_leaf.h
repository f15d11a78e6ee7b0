// SPDX-License-Identifier: Apache-2.0
// ConfigLeaf: one typed option value: how it is read from a node, checked, and written back.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "launch/config/config_tree.h"
#include "launch/config/train_config.h"

namespace rankwise {

// Refers to a member of TrainConfig.
struct ConfigLeaf {
  // Throws ConfigError with the message alone; the reader puts place and key before it.
  std::function<void(const ConfigNode&)> read;
  std::function<Json()> value;  // null: not set
  // "none | nf4" when only certain names are allowed, otherwise "".
  std::string allowed_names = {};
};

template <class T>
struct Range {
  T min = std::numeric_limits<T>::lowest();
  T max = std::numeric_limits<T>::max();
  bool min_allowed = true;  // whether the bounds themselves belong to the range
  bool max_allowed = true;
};

ConfigLeaf text_leaf(std::string& target);
ConfigLeaf flag_leaf(bool& target);
ConfigLeaf integer_leaf(int64_t& target, Range<int64_t> range);
ConfigLeaf real_leaf(double& target, Range<double> range);
// A list of exactly two numbers.
ConfigLeaf real_pair_leaf(std::array<double, 2>& target, Range<double> range);
ConfigLeaf warmup_leaf(Warmup& target);
// One glob, or a list of them.
ConfigLeaf patterns_leaf(std::vector<std::string>& target);

// The index of the name that `node` gives; an error lists the names this version offers.
size_t read_choice(const ConfigNode& node, const std::vector<std::string>& names);
std::string join_choices(const std::vector<std::string>& names);

template <class Enum>
using Choices = std::vector<std::pair<std::string, Enum>>;

// An enumerator without a name is printed as "not set".
template <class Enum>
ConfigLeaf choice_leaf(Enum& target, const std::type_identity_t<Choices<Enum>>& choices) {
  std::vector<std::string> names;
  for (const auto& [name, choice] : choices) names.push_back(name);
  const auto read = [&target, choices, names](const ConfigNode& node) {
    target = choices[read_choice(node, names)].second;
  };
  const auto value = [&target, choices]() -> Json {
    for (const auto& [name, choice] : choices) {
      if (choice == target) return name;
    }
    return nullptr;
  };
  return {read, value, join_choices(names)};
}

// A value that may be absent; make_leaf(T&, rules...) reads and checks it when it is there. `null`
// takes it away again, so that an override can (train.steps=null train.epochs=3).
template <class T, class... Rules>
ConfigLeaf optional_leaf(std::optional<T>& target, ConfigLeaf (*make_leaf)(T&, Rules...),
                         std::type_identity_t<Rules>... rules) {
  const auto read = [&target, make_leaf, rules...](const ConfigNode& node) {
    if (node.kind == ConfigNode::Kind::kNull) return target.reset();
    T inner{};
    make_leaf(inner, rules...).read(node);
    target = std::move(inner);
  };
  return {read, [&target] { return target ? Json(*target) : Json(nullptr); }};
}

}  // namespace rankwise
