// SPDX-License-Identifier: Apache-2.0
// Reads every source file and fails on file names that say nothing and on a type name that two
// files define: linked into one program, one of the two silently replaces the other.
#include <gtest/gtest.h>

#include <cctype>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/support/source_tree.h"

namespace rankwise::testing {
namespace {

std::vector<std::string> name_problems(const SourceFile& file) {
  static const std::set<std::string> forbidden = {"utils",  "util",    "common",  "misc",
                                                  "helper", "helpers", "manager", "managers",
                                                  "base",   "impl"};
  std::vector<std::string> problems;
  std::string part;
  for (char c : file.path + "/") {
    if (c != '/' && c != '.' && c != '_') {
      part += c;
      continue;
    }
    if (forbidden.contains(part))
      problems.push_back(file.path + ": a name that says nothing: " + part);
    part.clear();
  }
  return problems;
}

// Walks the namespaces of one file; what stands inside types and functions is skipped.
class TypeScanner {
 public:
  explicit TypeScanner(const std::string& text)
      : code_(without_directives(without_comments(text, false))) {}

  // Qualified names of the types defined outside unnamed namespaces.
  std::set<std::string> scan() {
    while (at_ < code_.size()) {
      const char c = code_[at_];
      if (c == '{') {
        open_brace();
      } else if (c == '}') {
        if (!scopes_.empty()) scopes_.pop_back();
        begin_ = ++at_;
      } else {
        ++at_;
        if (c == ';') begin_ = at_;
      }
    }
    return found_;
  }

 private:
  // Words and signs between the last statement end and the brace.
  std::vector<std::string> head() const {
    std::vector<std::string> words(1);
    for (size_t i = begin_; i < at_; ++i) {
      const char c = code_[i];
      if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_') {
        words.back() += c;
        continue;
      }
      if (!words.back().empty()) words.emplace_back();
      if (std::isspace(static_cast<unsigned char>(c)) == 0) {
        words.back() = c;
        words.emplace_back();
      }
    }
    words.pop_back();
    return words;
  }

  void open_brace() {
    std::vector<std::string> words = head();
    if (!words.empty() && words[0] == "inline") words.erase(words.begin());
    if (!words.empty() && words[0] == "namespace") {
      std::string name;
      for (size_t i = 1; i < words.size(); ++i) name += words[i];
      scopes_.push_back(name);
      begin_ = ++at_;
      return;
    }
    record_type(words);
    skip_block();
    begin_ = at_;
  }

  // [template <...>] class|struct|union|enum [class] Name [final] [: bases]
  void record_type(const std::vector<std::string>& words) {
    static const std::set<std::string> keywords = {"class", "struct", "union", "enum"};
    size_t i = 0;
    if (i < words.size() && words[i] == "template") {
      int depth = 0;
      do {
        ++i;
        if (i < words.size() && words[i] == "<") ++depth;
        if (i < words.size() && words[i] == ">") --depth;
      } while (i < words.size() && depth > 0);
      ++i;
    }
    if (i >= words.size() || !keywords.contains(words[i])) return;
    while (i < words.size() && keywords.contains(words[i])) ++i;
    if (i >= words.size()) return;
    std::string name;
    for (const std::string& scope : scopes_) {
      if (scope.empty()) return;
      name += scope + "::";
    }
    name += words[i];
    // Member types (Arena::Pool), specialisations and functions that return a type are none of
    // ours.
    if (i + 1 < words.size() && words[i + 1] != ":" && words[i + 1] != "final") return;
    if (i + 2 < words.size() && words[i + 1] == ":" && words[i + 2] == ":") return;
    found_.insert(name);
  }

  void skip_block() {
    int depth = 0;
    do {
      if (code_[at_] == '{') ++depth;
      if (code_[at_] == '}') --depth;
      ++at_;
    } while (depth > 0 && at_ < code_.size());
  }

  std::string code_;
  size_t begin_ = 0;
  size_t at_ = 0;
  std::vector<std::string> scopes_;
  std::set<std::string> found_;
};

// Test programs are linked one by one, so that only their shared headers count.
bool is_linked_with_others(const std::string& path) {
  return !path.starts_with("tests/") || path.ends_with(".h");
}

std::vector<std::string> type_problems(const std::vector<SourceFile>& files) {
  std::map<std::string, std::string> defined_in;
  std::vector<std::string> problems;
  for (const SourceFile& file : files) {
    if (!is_linked_with_others(file.path)) continue;
    for (const std::string& name : TypeScanner(file.text).scan()) {
      const auto [first, is_new] = defined_in.emplace(name, file.path);
      if (!is_new) problems.push_back(file.path + ": " + name + " stands in " + first->second);
    }
  }
  return problems;
}

TEST(Names, OfFilesSaySomething) {
  std::string problems;
  for (const SourceFile& file : read_source_tree(".")) {
    for (const std::string& problem : name_problems(file)) problems += "\n  " + problem;
  }
  EXPECT_EQ(problems, "");
}

TEST(Names, OfTypesStandForOneTypeEach) {
  const std::vector<SourceFile> files = read_source_tree(".");
  std::string problems;
  for (const std::string& problem : type_problems(files)) problems += "\n  " + problem;
  EXPECT_EQ(problems, "");
}

// The checks themselves.

TEST(NamesCheck, FindsEmptyFileNames) {
  EXPECT_EQ(name_problems({"model/string_utils.h", ""}).size(), 1u);
  EXPECT_EQ(name_problems({"model/common/rope.h", ""}).size(), 1u);
  EXPECT_EQ(name_problems({"model/database.h", ""}).size(), 0u);
}

TEST(NamesCheck, FindsTheTypesOfAFile) {
  const std::string text = R"(
#define X {
namespace rankwise {
class Declared;
class Plain { struct Inner {}; };
struct Derived final : Plain { int x = f({1}); };
namespace cpu { enum class Kind { kA }; }
namespace { struct Hidden {}; }
template <class T, int n> struct Templated {};
template <> struct Templated<int, 2> {};
struct Plain::Nested {};
struct Plain make() { return {}; }
inline const Plain kPlain = {{}};
}
namespace rankwise::testing { union After {}; }
)";
  EXPECT_EQ(TypeScanner(text).scan(),
            (std::set<std::string>{"rankwise::Plain", "rankwise::Derived", "rankwise::cpu::Kind",
                                   "rankwise::Templated", "rankwise::testing::After"}));
}

TEST(NamesCheck, FindsATypeThatTwoFilesDefine) {
  const std::string text = "namespace rankwise { struct Batch {}; }";
  EXPECT_EQ(type_problems({{"model/a.h", text}, {"optim/b.h", text}}).size(), 1u);
  EXPECT_EQ(type_problems({{"model/a.cc", text}, {"tests/b.h", text}}).size(), 1u);
  EXPECT_EQ(type_problems({{"model/a.h", text}, {"tests/b_test.cc", text}}).size(), 0u);
  EXPECT_EQ(type_problems({{"model/a.h", text},
                           {"optim/b.h", "namespace rankwise::cpu { struct Batch {}; }"}})
                .size(),
            0u);
}

}  // namespace
}  // namespace rankwise::testing
