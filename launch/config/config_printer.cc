// SPDX-License-Identifier: Apache-2.0
#include "launch/config/config_printer.h"

#include <fmt/format.h>

#include <algorithm>

namespace rankwise {

namespace {

constexpr size_t kHelpColumn = 40;

// Words that YAML readers take for something else than text.
bool is_reserved_word(std::string_view text) {
  static const std::vector<std::string_view> words = {"null", "true", "false", "yes",  "no",
                                                      "on",   "off",  "Null",  "True", "False"};
  return std::find(words.begin(), words.end(), text) != words.end();
}

bool can_stand_unquoted(std::string_view text) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto is_plain = [&](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.' || c == '/';
  };
  const bool begins_plainly = !text.empty() && (is_letter(text[0]) || text[0] == '/');
  return begins_plainly && std::all_of(text.begin(), text.end(), is_plain) &&
         !is_reserved_word(text);
}

// YAML of a scalar or a list of scalars. JSON's quoting is valid YAML.
std::string to_yaml(const Json& value) {
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    return can_stand_unquoted(text) ? text : value.dump();
  }
  if (value.is_number_float()) return fmt::format("{}", value.get<double>());
  if (!value.is_array()) return value.dump();
  std::string text;
  for (const Json& item : value) text.append(text.empty() ? "" : ", ").append(to_yaml(item));
  return "[" + text + "]";
}

}  // namespace

void ConfigPrinter::leaf(const ConfigKey& key, const ConfigLeaf& leaf) {
  if (!key.unused_because.empty()) return;
  const Json value = leaf.value();
  const std::string names = leaf.allowed_names;
  const std::string help = names.empty() ? key.help : names + ": " + key.help;
  if (value.is_null()) {
    add_line(fmt::format("# {}:", key.name), help);
  } else {
    add_line(fmt::format("{}: {}", key.name, to_yaml(value)), help);
  }
}

void ConfigPrinter::section(const ConfigKey& key, const std::function<void()>& describe) {
  if (!key.unused_because.empty()) return;
  add_line(key.name + ":", key.help);
  indent_ += 2;
  describe();
  indent_ -= 2;
}

void ConfigPrinter::list(const ConfigKey& key, size_t size, const std::function<void(size_t)>&,
                         const std::function<void(size_t)>& describe) {
  add_line(key.name + (size == 0 ? ": []" : ":"), key.help);
  indent_ += 4;
  for (size_t i = 0; i < size; ++i) {
    starts_item_ = true;
    describe(i);
  }
  starts_item_ = false;
  indent_ -= 4;
}

void ConfigPrinter::add_line(std::string_view content, std::string_view help) {
  std::string line(static_cast<size_t>(indent_), ' ');
  if (starts_item_) line[line.size() - 2] = '-';
  starts_item_ = false;
  line += content;
  line.resize(std::max(line.size() + 1, kHelpColumn), ' ');
  text_ += fmt::format("{}# {}\n", line, help);
}

void ConfigToJson::leaf(const ConfigKey& key, const ConfigLeaf& leaf) {
  if (key.unused_because.empty()) (*current_)[key.name] = leaf.value();
}

void ConfigToJson::section(const ConfigKey& key, const std::function<void()>& describe) {
  if (key.unused_because.empty()) (*current_)[key.name] = visit_object(describe);
}

void ConfigToJson::list(const ConfigKey& key, size_t size, const std::function<void(size_t)>&,
                        const std::function<void(size_t)>& describe) {
  Json items = Json::array();
  for (size_t i = 0; i < size; ++i) items.push_back(visit_object([&] { describe(i); }));
  (*current_)[key.name] = std::move(items);
}

Json ConfigToJson::visit_object(const std::function<void()>& describe) {
  Json object = Json::object();
  Json* outer = std::exchange(current_, &object);
  describe();
  current_ = outer;
  return object;
}

}  // namespace rankwise
