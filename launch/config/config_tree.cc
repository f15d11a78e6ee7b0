// SPDX-License-Identifier: Apache-2.0
#include "launch/config/config_tree.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "runtime/data/utf8.h"
#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"

namespace rankwise {

namespace {

// Builds the tree from parser events. Events arrive before yaml-cpp has built anything, so a limit
// exceeded here bounds time, memory and recursion of the parser itself; and aliases, which yaml-cpp
// would expand or even close into a cycle, are seen as what they are.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string_view yaml, std::string_view source) : yaml_(yaml), source_(source) {}

  ConfigNode take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (has_document_) fail(mark, "only one YAML document is allowed");
    has_document_ = true;
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add(mark, make_node(mark, ConfigNode::Kind::kNull));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail(mark, "aliases are not allowed, write the value out");
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    // yaml-cpp reports plain scalars as "?" and quoted ones as "!".
    if (!tag.empty() && tag != "?" && tag != "!") fail(mark, "tags are not allowed");
    // Of \N and \_ yaml-cpp makes single bytes, as in Latin-1; all else is as valid as the file.
    if (!is_valid_utf8(value)) {
      fail(mark, R"(the escapes \N and \_ are not allowed, write \u0085 or \u00a0)");
    }
    // (JSON writes DEL as it is, and the settings of a checkpoint would be refused when they are
    // read)
    if (value.find_first_of(std::string_view("\0\x7f", 2)) != value.npos) {
      fail(mark, "NUL and DEL are no characters of a name or a path");
    }
    ConfigNode node = make_node(mark, ConfigNode::Kind::kScalar);
    node.text = value;
    node.quoted = tag == "!";
    if (node.quoted) require_closed_quote(mark);
    add(mark, std::move(node));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, ConfigNode::Kind::kList);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, ConfigNode::Kind::kMap);
  }
  void OnMapEnd() override { close(); }

 private:
  // A list or map under construction; a map alternates between keys and values.
  struct Level {
    ConfigNode node;
    std::set<std::string, std::less<>> keys;
    bool has_key = false;
    std::string key;
    std::string key_place;
  };

  std::string place(const YAML::Mark& mark) const {
    if (source_.starts_with(kOverridePlace)) return std::string(kOverridePlace);
    return fmt::format("{}:{}:{}", source_, mark.line + 1, mark.column + 1);
  }

  [[noreturn]] void fail(const YAML::Mark& mark, std::string_view message) const {
    throw ConfigError(
        fmt::format("{}:{}:{}: {}", source_, mark.line + 1, mark.column + 1, message));
  }

  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != YAML::NullAnchor) fail(mark, "anchors are not allowed, write the value out");
  }

  // yaml-cpp lets a quote run on over line ends, even to the end of the file, and so swallows the
  // keys that follow a forgotten one. No value here needs a line end.
  void require_closed_quote(const YAML::Mark& mark) const {
    const auto start = static_cast<size_t>(mark.pos);
    const char quote = start < yaml_.size() ? yaml_[start] : '\0';
    if (quote != '"' && quote != '\'') return;  // a block scalar
    for (size_t i = start + 1; i < yaml_.size() && yaml_[i] != '\n'; ++i) {
      if (quote == '"' && yaml_[i] == '\\') {
        ++i;
      } else if (yaml_[i] == quote) {
        return;
      }
    }
    fail(mark, "the quote is not closed on its line");
  }

  ConfigNode make_node(const YAML::Mark& mark, ConfigNode::Kind kind) const {
    ConfigNode node;
    node.kind = kind;
    node.place = place(mark);
    return node;
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
            ConfigNode::Kind kind) {
    refuse_anchor(mark, anchor);
    if (!tag.empty() && tag != "?") fail(mark, "tags are not allowed");
    if (!levels_.empty() && levels_.back().node.kind == ConfigNode::Kind::kMap &&
        !levels_.back().has_key) {
      fail(mark, "a key must be a plain name");
    }
    if (levels_.size() >= kMaxConfigDepth) {
      fail(mark, fmt::format("nested deeper than {} levels", kMaxConfigDepth));
    }
    levels_.push_back({.node = make_node(mark, kind), .keys = {}, .key = {}, .key_place = {}});
    levels_.back().node.kind = kind;
    starts_.push_back(mark);
  }

  void close() {
    ConfigNode node = std::move(levels_.back().node);
    levels_.pop_back();
    const YAML::Mark mark = starts_.back();
    starts_.pop_back();
    add(mark, std::move(node));
  }

  void add(const YAML::Mark& mark, ConfigNode node) {
    if (++values_ > kMaxConfigValues) {
      fail(mark, fmt::format("more than {} keys and values", kMaxConfigValues));
    }
    if (levels_.empty()) {
      root_ = std::move(node);
      return;
    }
    Level& level = levels_.back();
    if (level.node.kind == ConfigNode::Kind::kList) {
      level.node.items.push_back(std::move(node));
    } else if (level.has_key) {
      level.node.entries.push_back({level.key, level.key_place, std::move(node)});
      level.has_key = false;
    } else {
      begin_entry(mark, std::move(node));
    }
  }

  void begin_entry(const YAML::Mark& mark, ConfigNode key) {
    Level& level = levels_.back();
    if (key.kind != ConfigNode::Kind::kScalar) fail(mark, "a key must be a plain name");
    if (key.text == "<<") fail(mark, "merge keys are not allowed, write the values out");
    if (!level.keys.insert(key.text).second) {
      const auto same = [&](const ConfigNode::Entry& entry) { return entry.key == key.text; };
      const auto first = std::find_if(level.node.entries.begin(), level.node.entries.end(), same);
      fail(mark,
           fmt::format("key {} is given twice, first at {}", quote(key.text), first->key_place));
    }
    level.has_key = true;
    level.key = std::move(key.text);
    level.key_place = std::move(key.place);
  }

  std::string_view yaml_;
  std::string source_;
  ConfigNode root_;
  bool has_document_ = false;
  int values_ = 0;
  std::vector<Level> levels_;
  std::vector<YAML::Mark> starts_;
};

// yaml-cpp accepts bytes that no editor shows; in a configuration they are a mistake or an attack.
void refuse_strange_bytes(std::string_view yaml, std::string_view source) {
  const size_t invalid = find_invalid_utf8(yaml);
  int line = 1;
  size_t line_begin = 0;
  for (size_t i = 0; i < yaml.size(); ++i) {
    const auto byte = static_cast<unsigned char>(yaml[i]);
    const bool control =
        (byte < 0x20 && byte != '\n' && byte != '\r' && byte != '\t') || byte == 0x7f;
    if (control || i == invalid) {
      throw ConfigError(fmt::format("{}:{}: byte {}: {} 0x{:02x}", source, line, i - line_begin + 1,
                                    control ? "control character" : "invalid UTF-8", byte));
    }
    if (byte == '\n') ++line, line_begin = i + 1;
  }
}

void refuse_size(int64_t bytes, std::string_view source) {
  if (bytes > kMaxConfigBytes) {
    throw ConfigError(fmt::format("{}: a configuration may have at most {} bytes, this has {}",
                                  source, kMaxConfigBytes, bytes));
  }
}

}  // namespace

const ConfigNode* ConfigNode::find(std::string_view key) const {
  for (const Entry& entry : entries) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

ConfigNode* ConfigNode::find(std::string_view key) {
  return const_cast<ConfigNode*>(std::as_const(*this).find(key));
}

std::string ConfigNode::description() const {
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a section";
    case Kind::kScalar:
      break;
  }
  constexpr size_t kShown = 60;
  const std::string shown = quote(text.size() > kShown ? text.substr(0, kShown) + "..." : text);
  return quoted ? fmt::format("the text \"{}\"", shown.substr(1, shown.size() - 2)) : shown;
}

ConfigNode parse_config_tree(std::string_view yaml, std::string_view source) {
  refuse_size(static_cast<int64_t>(yaml.size()), source);
  refuse_strange_bytes(yaml, source);
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (yaml.starts_with(kByteOrderMark)) yaml.remove_prefix(kByteOrderMark.size());
  std::istringstream stream{std::string(yaml)};
  TreeBuilder builder(yaml, source);
  try {
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) {
      throw ConfigError(fmt::format("{}: the configuration is empty", source));
    }
    parser.HandleNextDocument(builder);
  } catch (const YAML::Exception& error) {
    const std::string place =
        error.mark.is_null()
            ? std::string(source)
            : fmt::format("{}:{}:{}", source, error.mark.line + 1, error.mark.column + 1);
    // A glob that begins with `*` reads as an alias unless it is quoted.
    const bool alias = error.msg == YAML::ErrorMsg::UNKNOWN_ANCHOR;
    const std::string reason = quote(error.msg);  // may hold a character of the file
    throw ConfigError(fmt::format("{}: {}{}", place, reason.substr(1, reason.size() - 2),
                                  alias ? "; put text that begins with * in quotes" : ""));
  }
  return builder.take_root();
}

ConfigNode read_config_tree(const std::string& path) {
  struct stat status = {};
  if (::stat(path.c_str(), &status) != 0) {
    throw ConfigError(fmt::format("{}: no such configuration file", path));
  }
  // A pipe or device has no size to check, and may never end.
  if (!S_ISREG(status.st_mode)) throw ConfigError(fmt::format("{}: not a regular file", path));
  refuse_size(status.st_size, path);
  std::string text;
  try {
    text = read_file(path, kMaxConfigBytes);
  } catch (const Error& error) {
    throw ConfigError(error.what());
  }
  return parse_config_tree(text, path);
}

}  // namespace rankwise
