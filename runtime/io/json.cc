// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/json.h"

#include <iterator>
#include <unordered_set>
#include <utility>
#include <vector>

#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"

namespace rankwise {
namespace {

// Hands the parser one byte after the other and counts them, so that a handler knows the place.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, size_t* count) : at_(at), count_(count) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*count_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  size_t* count_;
};

// Builds the document from the parser's events. Objects are appended to directly: looking up each
// new key in an ordered object would take quadratic time on a vocabulary.
class DocumentBuilder {
 public:
  DocumentBuilder(std::string_view source, int max_depth, const size_t* position)
      : source_(source), max_depth_(max_depth), position_(position) {}

  Json take() { return std::move(root_); }

  bool null() { return add(Json(nullptr)); }
  bool boolean(bool value) { return add(Json(value)); }
  bool number_integer(Json::number_integer_t value) { return add(Json(value)); }
  bool number_unsigned(Json::number_unsigned_t value) { return add(Json(value)); }
  bool number_float(Json::number_float_t value, const std::string&) { return add(Json(value)); }
  bool string(std::string& value) { return add(Json(std::move(value))); }
  bool binary(Json::binary_t&) { return false; }  // does not occur in text
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    if (!levels_.back().keys.insert(name).second) {
      fail(fmt::format("duplicate key {}", quote(name)), *position_);
    }
    levels_.back().next_key = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
    // Of "[json...] parse error at line 1, column 2: REASON; last read: '...'" the reason only:
    // what was read last may be megabytes, and so may a number.
    constexpr size_t kLongestReason = 200;
    std::string reason = error.what();
    if (const size_t end = reason.find("; last read"); end != std::string::npos) reason.resize(end);
    if (const size_t begin = reason.find(": "); begin != std::string::npos) {
      reason.erase(0, begin + 2);
    }
    if (reason.size() > kLongestReason) reason.replace(kLongestReason, reason.npos, "...");
    fail(reason, position);
  }

 private:
  struct Level {
    Json* container = nullptr;
    std::unordered_set<std::string> keys;
    std::string next_key;
  };

  // The address is stable while the element is open: its container only grows after it is closed.
  Json* append(Json&& value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Level& level = levels_.back();
    if (level.container->is_array()) {
      level.container->push_back(std::move(value));
      return &level.container->back();
    }
    auto& members = level.container->get_ref<Json::object_t&>();
    members.emplace_back(std::move(level.next_key), std::move(value));
    return &members.back().second;
  }

  bool add(Json&& value) {
    append(std::move(value));
    return true;
  }

  bool open(Json&& container) {
    if (levels_.size() >= static_cast<size_t>(max_depth_)) {
      fail(fmt::format("nested deeper than {} levels", max_depth_), *position_);
    }
    Json* opened = append(std::move(container));
    levels_.push_back({opened, {}, {}});
    return true;
  }

  bool close() {
    levels_.pop_back();
    return true;
  }

  [[noreturn]] void fail(const std::string& reason, size_t position) const {
    throw FormatError(fmt::format("{}: byte {}: {}", source_, position, reason));
  }

  std::string_view source_;
  int max_depth_;
  const size_t* position_;
  Json root_;
  std::vector<Level> levels_;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view source, const JsonLimits& limits) {
  if (static_cast<int64_t>(text.size()) > limits.max_bytes) {
    throw FormatError(fmt::format("{}: {} bytes of JSON, more than the {} allowed", source,
                                  text.size(), limits.max_bytes));
  }
  // The parser would take it for the end of the text and not see what follows.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw FormatError(fmt::format("{}: byte {}: a NUL byte", source, nul + 1));
  }
  size_t position = 0;
  DocumentBuilder builder(source, limits.max_depth, &position);
  Json::sax_parse(CountingIterator(text.data(), &position),
                  CountingIterator(text.data() + text.size(), &position), &builder);
  return builder.take();
}

Json read_json_file(const std::string& path, const JsonLimits& limits) {
  return parse_json(read_file(path, limits.max_bytes), path, limits);
}

}  // namespace rankwise
