// SPDX-License-Identifier: Apache-2.0
// Keeps files, functions and parameter lists small. tests/size_exceptions.txt lists what may be
// larger, with the reason; an entry that is no longer needed fails too.
#include <fnmatch.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/source_tree.h"

namespace rankwise::testing {
namespace {

constexpr int kSoftFileLines = 300;  // above: needs an exception
constexpr int kHardFileLines = 500;  // above: split it, whatever the reason
constexpr int kHardCudaLines = 600;
constexpr int kFunctionLines = 60;
constexpr int kParameters = 7;
constexpr int kProductLines = 33500;  // that hold code: neither blank nor only a comment

struct Finding {
  std::string kind;     // file, function, parameters
  std::string subject;  // path, or path:function
  int size = 0;
  int limit = 0;
  int line = 1;
};

struct Exception {
  int allowed = 0;
  std::string reason;
  bool used = false;
};
using Exceptions = std::map<std::string, Exception>;  // by "kind subject", a glob

// Lines of: kind subject allowed reason... ; '#' begins a comment.
Exceptions parse_exceptions(const std::string& text, std::vector<std::string>& problems) {
  Exceptions exceptions;
  for (const std::string& line : split_lines(text)) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream stream(line);
    std::string kind, subject;
    Exception exception;
    stream >> kind >> subject >> exception.allowed;
    std::getline(stream >> std::ws, exception.reason);
    if (exception.allowed <= 0 || exception.reason.size() < 10) {
      problems.push_back("exception without size or reason: " + line);
    }
    if (!exceptions.emplace(kind + " " + subject, exception).second) {
      problems.push_back("a second exception for the same: " + line);
    }
  }
  return exceptions;
}

bool is_test(const SourceFile& file) { return file.path.starts_with("tests/"); }

std::vector<Finding> oversize(const SourceFile& file) {
  std::vector<Finding> findings;
  const int lines = static_cast<int>(split_lines(file.text).size());
  if (lines > kSoftFileLines) findings.push_back({"file", file.path, lines, kSoftFileLines, 1});
  for (const Function& function : functions_of(file)) {
    const std::string subject = file.path + ":" + function.name;
    if (function.lines > kFunctionLines) {
      findings.push_back({"function", subject, function.lines, kFunctionLines, function.line});
    }
    if (function.parameters > kParameters && !is_test(file)) {
      findings.push_back({"parameters", subject, function.parameters, kParameters, function.line});
    }
  }
  return findings;
}

std::vector<std::string> size_problems(const std::vector<SourceFile>& files,
                                       const std::string& exception_text) {
  std::vector<std::string> problems;
  Exceptions exceptions = parse_exceptions(exception_text, problems);
  for (const SourceFile& file : files) {
    const bool cuda = file.path.ends_with(".cu") || file.path.ends_with(".cuh");
    for (const Finding& finding : oversize(file)) {
      const std::string key = finding.kind + " " + finding.subject;
      int allowed = finding.limit;
      for (auto& [pattern, exception] : exceptions) {
        if (fnmatch(pattern.c_str(), key.c_str(), 0) != 0) continue;
        exception.used = true;
        allowed = std::max(allowed, exception.allowed);
      }
      if (finding.kind == "file")
        allowed = std::min(allowed, cuda ? kHardCudaLines : kHardFileLines);
      if (finding.size <= allowed) continue;
      problems.push_back(file.path + ":" + std::to_string(finding.line) + ": " + key + " has " +
                         std::to_string(finding.size) + ", allowed " + std::to_string(allowed));
    }
  }
  for (const auto& [key, exception] : exceptions) {
    if (!exception.used) problems.push_back("exception no longer needed: " + key);
  }
  return problems;
}

std::string joined(const std::vector<std::string>& problems) {
  std::string text;
  for (const std::string& problem : problems) text += "\n  " + problem;
  return text;
}

TEST(Size, FilesFunctionsAndParameterListsAreSmall) {
  std::ifstream stream("tests/size_exceptions.txt");
  ASSERT_TRUE(stream) << "run in the repository root";
  std::stringstream text;
  text << stream.rdbuf();
  const std::vector<std::string> problems = size_problems(read_source_tree("."), text.str());
  EXPECT_TRUE(problems.empty()) << joined(problems);
}

TEST(Size, ProductStaysWithinItsBudget) {
  int64_t lines = 0;
  for (const SourceFile& file : read_source_tree(".")) {
    if (is_test(file)) continue;
    lines += std::ranges::count_if(
        split_lines(without_comments(file.text, true)),
        [](const std::string& line) { return line.find_first_not_of(" \t") != std::string::npos; });
  }
  EXPECT_GT(lines, 1000);
  EXPECT_LE(lines, kProductLines);
}

// The check itself, on files that are too large in one way each.

std::string repeated(const std::string& line, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += line + "\n";
  return text;
}

size_t problems_of(const std::string& text, const std::string& exceptions = "") {
  return size_problems({{"model/a.cc", text}}, exceptions).size();
}

TEST(SizeCheck, FindsLongFilesAndTheirExceptions) {
  EXPECT_EQ(problems_of(repeated("", 300)), 0u);
  EXPECT_EQ(problems_of(repeated("", 301)), 1u);
  EXPECT_EQ(problems_of(repeated("", 301), "file model/a.cc 320 one table, useless in parts\n"),
            0u);
  EXPECT_EQ(problems_of(repeated("", 501), "file model/a.cc 600 one table, useless in parts\n"),
            1u);
  EXPECT_EQ(problems_of("", "file model/a.cc 320 one table, useless in parts\n"), 1u);  // stale
  EXPECT_EQ(problems_of(repeated("", 301), "file model/a.cc 320\n"), 1u);               // no reason
}

TEST(SizeCheck, FindsLongFunctions) {
  const std::string body = repeated("  work();", 59);
  EXPECT_EQ(problems_of("void f() {\n" + repeated("  work();", 58) + "}\n"), 0u);
  EXPECT_EQ(problems_of("void f() {\n" + body + "}\n"), 1u);
  EXPECT_EQ(problems_of("namespace a {\nstruct B {\n  B(int x) : x_{x}, y_{} {\n" + body +
                        "  }\n};\n}\n"),
            1u);
  EXPECT_EQ(problems_of("const int table[] = {\n" + repeated("  1,", 80) + "};\n"), 0u);
  EXPECT_EQ(problems_of("struct A {\n" + repeated("  int x;", 80) + "};\n"), 0u);
  EXPECT_EQ(
      problems_of("std::function<int(int)> f() {\n  return [](int x) {\n" + body + "  };\n}\n"),
      1u);
}

TEST(SizeCheck, FindsLongParameterLists) {
  EXPECT_EQ(problems_of("void f(int a, int b, int c, int d, int e, int g, int h);\n"), 0u);
  EXPECT_EQ(problems_of("void f(int a, int b, int c, int d, int e, int g, int h, int i);\n"), 1u);
  EXPECT_EQ(problems_of("void f(std::map<int, int> a, std::map<int, int> b, std::map<int, int> c,\n"
                        "       std::map<int, int> d = {1, 2, 3, 4});\n"),
            0u);
  EXPECT_EQ(problems_of("void g() { f(1, 2, 3, 4, 5, 6, 7, 8, 9); }\n"), 0u);  // a call is no list
  EXPECT_EQ(problems_of("int x = f(1, 2, 3, 4, 5, 6, 7, 8, 9);\n"), 0u);
}

TEST(SizeCheck, ScannerSeesThroughCommentsAndStrings) {
  EXPECT_EQ(problems_of("// void f(int a, int b, int c, int d, int e, int g, int h, int i);\n"),
            0u);
  EXPECT_EQ(problems_of("const char* s = \"{ {{ (\";\nconst char c = '{';\nvoid f() {\n}\n"), 0u);
  EXPECT_EQ(
      problems_of("const int64_t n = 1'000'000;\nvoid f() {\n" + repeated("  work();", 60) + "}\n"),
      1u);
}

}  // namespace
}  // namespace rankwise::testing
