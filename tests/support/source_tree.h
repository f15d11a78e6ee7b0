// SPDX-License-Identifier: Apache-2.0
// The project's own source files, read for the tests that check layering and size.
#pragma once

#include <string>
#include <vector>

namespace rankwise::testing {

struct SourceFile {
  std::string path;  // relative to the repository root, with '/'
  std::string text;
};

// Every .h, .cc, .cu, .cuh under the product folders and tests/, sorted by path.
std::vector<SourceFile> read_source_tree(const std::string& root);

// Comments become blanks; with `keep_strings` false the content of string and character literals
// does too. Line breaks stay, so that line numbers hold.
std::string without_comments(const std::string& text, bool keep_strings);

// Preprocessor lines, with their continuations, become blanks.
std::string without_directives(std::string text);

std::vector<std::string> split_lines(const std::string& text);

struct Include {
  int line = 0;
  std::string name;
  bool quoted = false;  // "name", not <name>
};
std::vector<Include> includes_of(const SourceFile& file);

// A function definition, or (lines 0) a declaration.
struct Function {
  std::string name;
  int line = 0;
  int lines = 0;  // from the opening to the closing brace
  int parameters = 0;
};
// Relies on the formatting of clang-format (a space before the brace of a body, none before that of
// an initialiser); what it does not recognise it leaves out rather than guesses.
std::vector<Function> functions_of(const SourceFile& file);

}  // namespace rankwise::testing
