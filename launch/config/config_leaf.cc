// SPDX-License-Identifier: Apache-2.0
#include "launch/config/config_leaf.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cmath>

#include "launch/config/module_pattern.h"
#include "launch/config/nearest_name.h"
#include "runtime/errors.h"

namespace rankwise {

namespace {

[[noreturn]] void fail_expected(std::string_view expected, const ConfigNode& node) {
  throw ConfigError(fmt::format("expected {}, got {}", expected, node.description()));
}

template <class T>
T in_range(T value, const Range<T>& range) {
  const bool above_min = range.min_allowed ? value >= range.min : value > range.min;
  const bool below_max = range.max_allowed ? value <= range.max : value < range.max;
  if (above_min && below_max) return value;
  std::string allowed;
  if (range.min != std::numeric_limits<T>::lowest()) {
    allowed += fmt::format("{} {}", range.min_allowed ? "at least" : "above", range.min);
  }
  if (range.max != std::numeric_limits<T>::max()) {
    if (!allowed.empty()) allowed += " and ";
    allowed += fmt::format("{} {}", range.max_allowed ? "at most" : "below", range.max);
  }
  throw ConfigError(fmt::format("must be {}, got {}", allowed, value));
}

// YAML allows a leading plus, from_chars does not.
std::string_view digits_of(const ConfigNode& node) {
  std::string_view text = node.text;
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  return text;
}

int64_t read_integer(const ConfigNode& node) {
  if (node.kind != ConfigNode::Kind::kScalar || node.quoted) fail_expected("an integer", node);
  const std::string_view text = digits_of(node);
  int64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec == std::errc::result_out_of_range) {
    throw ConfigError(fmt::format("{} does not fit a 64-bit integer", node.description()));
  }
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) {
    fail_expected("an integer", node);
  }
  return value;
}

double read_real(const ConfigNode& node) {
  if (node.kind != ConfigNode::Kind::kScalar || node.quoted) fail_expected("a number", node);
  std::string_view text = digits_of(node);
  double value = 0.0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = parsed.ptr == text.data() + text.size();
  const bool yaml_special = text.ends_with(".inf") || text == ".nan";
  if (parsed.ec == std::errc::result_out_of_range || yaml_special ||
      (parsed.ec == std::errc() && whole && !std::isfinite(value))) {
    throw ConfigError(fmt::format("must be a finite number, got {}", node.description()));
  }
  if (parsed.ec != std::errc() || !whole) fail_expected("a number", node);
  return value;
}

std::string read_text(const ConfigNode& node, std::string_view expected) {
  if (node.kind != ConfigNode::Kind::kScalar) fail_expected(expected, node);
  if (node.text.empty()) throw ConfigError("must not be empty");
  return node.text;
}

bool read_flag(const ConfigNode& node) {
  const bool plain = node.kind == ConfigNode::Kind::kScalar && !node.quoted;
  if (!plain || (node.text != "true" && node.text != "false")) {
    fail_expected("true or false", node);
  }
  return node.text == "true";
}

double read_warmup(const ConfigNode& node) {
  const double value = read_real(node);
  const bool is_fraction = value >= 0.0 && value < 1.0;
  const bool is_step_count = value >= 1.0 && value <= 1e12 && value == std::floor(value);
  if (!is_fraction && !is_step_count) {
    throw ConfigError(fmt::format(
        "must be a fraction of all steps (0 to below 1) or a whole number of steps, got {}",
        value));
  }
  return value;
}

std::vector<std::string> read_patterns(const ConfigNode& node) {
  std::vector<std::string> patterns;
  if (node.kind == ConfigNode::Kind::kList) {
    for (const ConfigNode& item : node.items) patterns.push_back(read_text(item, "a glob"));
  } else {
    patterns.push_back(read_text(node, "a glob or a list of globs"));
  }
  if (patterns.empty()) throw ConfigError("must not be empty");
  for (const std::string& pattern : patterns) expand_braces(pattern);
  return patterns;
}

// `read` makes the value of a node.
template <class T, class Read>
ConfigLeaf leaf_of(T& target, Read read) {
  return {[&target, read](const ConfigNode& node) { target = read(node); },
          [&target] { return Json(target); }};
}

}  // namespace

ConfigLeaf text_leaf(std::string& target) {
  return leaf_of(target, [](const ConfigNode& node) { return read_text(node, "text"); });
}

ConfigLeaf flag_leaf(bool& target) { return leaf_of(target, read_flag); }

ConfigLeaf integer_leaf(int64_t& target, Range<int64_t> range) {
  return leaf_of(target,
                 [range](const ConfigNode& node) { return in_range(read_integer(node), range); });
}

ConfigLeaf real_leaf(double& target, Range<double> range) {
  return leaf_of(target,
                 [range](const ConfigNode& node) { return in_range(read_real(node), range); });
}

ConfigLeaf real_pair_leaf(std::array<double, 2>& target, Range<double> range) {
  return leaf_of(target, [range](const ConfigNode& node) -> std::array<double, 2> {
    if (node.kind != ConfigNode::Kind::kList || node.items.size() != 2) {
      fail_expected("a list of two numbers", node);
    }
    return {in_range(read_real(node.items[0]), range), in_range(read_real(node.items[1]), range)};
  });
}

ConfigLeaf warmup_leaf(Warmup& target) { return leaf_of(target.value, read_warmup); }

ConfigLeaf patterns_leaf(std::vector<std::string>& target) {
  return {[&target](const ConfigNode& node) { target = read_patterns(node); },
          [&target] { return target.size() == 1 ? Json(target[0]) : Json(target); }};
}

std::string join_choices(const std::vector<std::string>& names) {
  return fmt::format("{}", fmt::join(names, " | "));
}

size_t read_choice(const ConfigNode& node, const std::vector<std::string>& names) {
  const std::string available = join_choices(names);
  if (node.kind != ConfigNode::Kind::kScalar) fail_expected(available, node);
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == node.text) return i;
  }
  const std::string nearest = nearest_name(node.text, names);
  const std::string hint = nearest.empty() ? "" : fmt::format(", did you mean '{}'?", nearest);
  throw ConfigError(fmt::format("{} is not available in this version{} (available: {})",
                                node.description(), hint, available));
}

}  // namespace rankwise
