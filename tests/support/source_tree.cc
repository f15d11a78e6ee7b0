// SPDX-License-Identifier: Apache-2.0
#include "tests/support/source_tree.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

namespace rankwise::testing {
namespace {

bool is_identifier(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool is_blank(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

// Position behind the literal or comment that begins at `at`, or `at` when none does.
size_t end_of_comment(const std::string& text, size_t at) {
  if (text.compare(at, 2, "//") == 0) return std::min(text.find('\n', at), text.size());
  if (text.compare(at, 2, "/*") == 0) {
    const size_t close = text.find("*/", at + 2);
    return close == std::string::npos ? text.size() : close + 2;
  }
  return at;
}

size_t end_of_literal(const std::string& text, size_t at) {
  if (text.compare(at, 2, "R\"") == 0 && (at == 0 || !is_identifier(text[at - 1]))) {
    const size_t open = text.find('(', at);
    if (open == std::string::npos) return at;
    std::string closing(1, ')');
    closing.append(text, at + 2, open - at - 2).append(1, '"');
    const size_t close = text.find(closing, open);
    return close == std::string::npos ? text.size() : close + closing.size();
  }
  const char quote = text[at];
  if (quote != '"' && quote != '\'') return at;
  // A quote inside a number (1'000) separates digits.
  if (quote == '\'' && at > 0 && is_identifier(text[at - 1])) return at;
  for (size_t i = at + 1; i < text.size() && text[i] != '\n'; ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == quote) {
      return i + 1;
    }
  }
  return at;
}

void blank(std::string& text, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    if (text[i] != '\n') text[i] = ' ';
  }
}

size_t matching_close(const std::string& text, size_t open, char left, char right) {
  int depth = 0;
  for (size_t i = open; i < text.size(); ++i) {
    if (text[i] == left) ++depth;
    if (text[i] == right && --depth == 0) return i;
  }
  return std::string::npos;
}

bool contains_word(const std::string& text, const std::string& word) {
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const bool starts = at == 0 || !is_identifier(text[at - 1]);
    const size_t end = at + word.size();
    if (starts && (end == text.size() || !is_identifier(text[end]))) return true;
  }
  return false;
}

// The first parenthesis outside template arguments: that of the parameters.
size_t parameters_open(const std::string& declaration) {
  const size_t operator_at = declaration.find("operator");
  if (operator_at != std::string::npos) {
    size_t open = declaration.find('(', operator_at);
    if (declaration.compare(open, 2, "()") == 0) open = declaration.find('(', open + 2);
    return open;
  }
  int angles = 0;
  for (size_t i = 0; i < declaration.size(); ++i) {
    if (declaration[i] == '<') ++angles;
    if (declaration[i] == '>') --angles;
    if (declaration[i] == '(' && angles <= 0) return i;
  }
  return std::string::npos;
}

int count_parameters(const std::string& list) {
  int depth = 0;
  int count = 1;
  for (char c : list) {
    if (c == '(' || c == '<' || c == '{' || c == '[') ++depth;
    if (c == ')' || c == '>' || c == '}' || c == ']') --depth;
    if (c == ',' && depth == 0) ++count;
  }
  return std::all_of(list.begin(), list.end(), is_blank) ? 0 : count;
}

// Reads the text between two statement ends as the head of a function; false when it is none.
bool read_head(const std::string& head, Function& out) {
  const size_t open = parameters_open(head);
  if (open == std::string::npos || open == 0) return false;
  const size_t close = matching_close(head, open, '(', ')');
  if (close == std::string::npos) return false;
  if (head.substr(0, open).find('=') != std::string::npos &&
      head.find("operator") == std::string::npos) {
    return false;  // a variable initialised by a call
  }
  size_t begin = open;
  while (begin > 0 && is_blank(head[begin - 1])) --begin;
  const size_t end = begin;
  while (begin > 0 && (is_identifier(head[begin - 1]) || head[begin - 1] == '~')) --begin;
  out.name = head.substr(begin, end - begin);
  if (out.name.empty()) out.name = "operator";
  out.parameters = count_parameters(head.substr(open + 1, close - open - 1));
  return true;
}

class FunctionScanner {
 public:
  explicit FunctionScanner(const std::string& code) : code_(code) {}

  std::vector<Function> scan() {
    while (at_ < code_.size()) step();
    return std::move(found_);
  }

 private:
  void step() {
    const char c = code_[at_];
    if (c == '(') {
      skip_to_close('(', ')');
    } else if (c == '{') {
      open_brace();
    } else if (c == ';') {
      Function declaration;
      if (read_head(head(), declaration)) record(declaration, 0);
      restart(at_ + 1);
    } else if (c == '}') {
      restart(at_ + 1);
    } else {
      ++at_;
    }
  }

  void open_brace() {
    const std::string before = head();
    Function function;
    if (at_ > 0 && (is_identifier(code_[at_ - 1]) || code_[at_ - 1] == '>')) {
      skip_to_close('{', '}');  // an initialiser: member_{0}
      return;
    }
    const size_t last = before.find_last_not_of(" \n\t");
    if (last != std::string::npos && before[last] == '=') {
      skip_to_close('{', '}');
      return;
    }
    const bool is_function = read_head(before, function);
    const bool is_scope = contains_word(before, "namespace") || contains_word(before, "extern");
    const bool is_type = contains_word(before, "class") || contains_word(before, "struct") ||
                         contains_word(before, "union");
    if (contains_word(before, "enum")) {
      skip_to_close('{', '}');
    } else if (is_scope || (is_type && !is_function)) {
      restart(at_ + 1);  // look inside
    } else if (is_function) {
      const size_t open = at_;
      skip_to_close('{', '}');
      record(function,
             1 + static_cast<int>(std::count(code_.begin() + static_cast<long>(open),
                                             code_.begin() + static_cast<long>(at_), '\n')));
      restart(at_);
    } else {
      skip_to_close('{', '}');
    }
  }

  std::string head() const { return code_.substr(begin_, at_ - begin_); }

  void restart(size_t at) { begin_ = at_ = at; }

  void skip_to_close(char left, char right) {
    const size_t close = matching_close(code_, at_, left, right);
    at_ = close == std::string::npos ? code_.size() : close + 1;
  }

  void record(Function function, int lines) {
    size_t first = begin_;
    while (first < at_ && is_blank(code_[first])) ++first;
    function.line = 1 + static_cast<int>(std::count(
                            code_.begin(), code_.begin() + static_cast<long>(first), '\n'));
    function.lines = lines;
    found_.push_back(std::move(function));
  }

  const std::string& code_;
  size_t begin_ = 0;
  size_t at_ = 0;
  std::vector<Function> found_;
};

}  // namespace

std::vector<SourceFile> read_source_tree(const std::string& root) {
  namespace fs = std::filesystem;
  std::vector<SourceFile> files;
  for (const char* folder :
       {"runtime", "kernels", "parallel", "model", "optim", "launch", "tests"}) {
    for (const auto& entry : fs::recursive_directory_iterator(fs::path(root) / folder)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".h" && extension != ".cc" && extension != ".cu" && extension != ".cuh") {
        continue;
      }
      std::ifstream stream(entry.path(), std::ios::binary);
      std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
      files.push_back({fs::relative(entry.path(), root).generic_string(), std::move(text)});
    }
  }
  std::sort(files.begin(), files.end(),
            [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  return files;
}

std::string without_comments(const std::string& text, bool keep_strings) {
  std::string out = text;
  size_t at = 0;
  while (at < text.size()) {
    size_t end = end_of_comment(text, at);
    if (end != at) {
      blank(out, at, end);
    } else {
      end = end_of_literal(text, at);
      if (end != at && !keep_strings) blank(out, at + 1, end - 1);
    }
    at = end == at ? at + 1 : end;
  }
  return out;
}

std::string without_directives(std::string text) {
  size_t at = 0;
  bool inside = false;
  while (at < text.size()) {
    const size_t end = std::min(text.find('\n', at), text.size());
    size_t first = at;
    while (first < end && is_blank(text[first])) ++first;
    inside = inside || (first < end && text[first] == '#');
    const bool continued = end > at && text[end - 1] == '\\';
    if (inside) blank(text, at, end);
    inside = inside && continued;
    at = end + 1;
  }
  return text;
}

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::vector<Include> includes_of(const SourceFile& file) {
  std::vector<Include> found;
  int number = 0;
  // Blanked strings mark where a directive is real; the name is read from the line that kept them.
  const std::vector<std::string> code = split_lines(without_comments(file.text, false));
  const std::vector<std::string> lines = split_lines(without_comments(file.text, true));
  for (const std::string& line : lines) {
    ++number;
    size_t at = line.find_first_not_of(" \t");
    if (at == std::string::npos || line[at] != '#' || code[number - 1][at] != '#') continue;
    at = line.find_first_not_of(" \t", at + 1);
    if (at == std::string::npos || line.compare(at, 7, "include") != 0) continue;
    const size_t open = line.find_first_of("<\"", at);
    if (open == std::string::npos) continue;
    const size_t close = line.find(line[open] == '<' ? '>' : '"', open + 1);
    if (close == std::string::npos) continue;
    found.push_back({number, line.substr(open + 1, close - open - 1), line[open] == '"'});
  }
  return found;
}

std::vector<Function> functions_of(const SourceFile& file) {
  const std::string code = without_directives(without_comments(file.text, false));
  return FunctionScanner(code).scan();
}

}  // namespace rankwise::testing
