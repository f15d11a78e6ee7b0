// SPDX-License-Identifier: Apache-2.0
// Reads every source file and fails on an include that goes upward, sideways or to a library its
// folder has not declared, and on calls that a library must leave to the program.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/source_tree.h"

namespace rankwise::testing {
namespace {

// What a layer may include besides itself. The longest folder that contains a file is its layer.
const std::map<std::string, std::set<std::string>>& allowed_layers() {
  static const std::map<std::string, std::set<std::string>> table = {
      {"runtime", {}},
      {"runtime/io", {"runtime"}},
      {"runtime/data", {"runtime", "runtime/io"}},
      {"kernels", {"runtime"}},
      {"parallel", {"runtime", "kernels"}},
      {"model", {"parallel", "kernels", "runtime", "runtime/io", "runtime/data"}},
      {"optim", {"parallel", "kernels", "runtime"}},
      {"launch",
       {"model", "optim", "parallel", "kernels", "runtime", "runtime/io", "runtime/data"}},
      {"tests",
       {"launch", "model", "optim", "parallel", "kernels", "runtime", "runtime/io",
        "runtime/data"}},
  };
  return table;
}

// Folders that only their own layer (and their mirror under tests/) sees.
const std::map<std::string, std::string>& private_folders() {
  static const std::map<std::string, std::string> table = {
      {"kernels/cpu", "kernels"}, {"kernels/cuda", "kernels"}, {"runtime/cuda", "runtime"},
      {"launch/config", "launch"}};
  return table;
}

// Third-party headers by prefix, and the folders that may include them.
const std::map<std::string, std::vector<std::string>>& restricted_headers() {
  static const std::map<std::string, std::vector<std::string>> table = {
      {"mpi.h", {"parallel"}},
      {"nccl.h", {"parallel"}},
      {"hdf5.h", {"runtime/io", "tests/fuzz"}},
      {"H5", {"runtime/io"}},
      {"openssl/", {"runtime/io"}},
      {"yaml-cpp/", {"launch/config"}},
      {"CLI/", {"launch", "tests/bench"}},
      {"sentencepiece_processor.h", {"runtime/data"}},
      {"cuda_runtime.h", {"runtime/cuda", "kernels/cuda"}},
      {"cuda_runtime_api.h", {"runtime/cuda", "kernels/cuda"}},
      {"cuda_bf16.h", {"kernels/cuda"}},
      {"cuda_fp16.h", {"kernels/cuda"}},
      {"cublas", {"kernels/cuda"}},
      {"cudnn", {"kernels/cuda"}},
      {"oneapi/dnnl/", {"kernels/cpu"}},
      {"dnnl", {"kernels/cpu"}},
      {"cblas.h", {"kernels/cpu"}},
      {"omp.h", {"kernels", "launch"}},
      {"gtest/", {"tests"}},
      {"benchmark/", {"tests/bench"}},
  };
  return table;
}

// Written into the build folder by launch/cmake/rankwise_build_info.cmake.
bool is_generated(const std::string& name) {
  return name == "build_info.h" || name == "git_commit.h";
}

bool is_under(const std::string& path, const std::string& folder) {
  return path.compare(0, folder.size() + 1, folder + "/") == 0;
}

std::string layer_of(const std::string& path) {
  std::string best;
  for (const auto& [folder, unused] : allowed_layers()) {
    if (is_under(path, folder) && folder.size() > best.size()) best = folder;
  }
  return best;
}

std::string at_line(const SourceFile& file, int line) {
  return file.path + ":" + std::to_string(line) + ": ";
}

void check_project_include(const SourceFile& file, const Include& include,
                           std::vector<std::string>& problems) {
  const std::string from = layer_of(file.path);
  const std::string to = layer_of(include.name);
  const bool allowed = from == to || allowed_layers().at(from).contains(to);
  if (!allowed) {
    problems.push_back(at_line(file, include.line) + from + " may not include " + to + " (" +
                       include.name + ")");
  }
  for (const auto& [folder, owner] : private_folders()) {
    if (!is_under(include.name, folder)) continue;
    if (!is_under(file.path, owner) && !is_under(file.path, "tests")) {
      problems.push_back(at_line(file, include.line) + folder + " is private to " + owner);
    }
  }
  const bool crosses =
      (is_under(file.path, "kernels/cpu") && is_under(include.name, "kernels/cuda")) ||
      (is_under(file.path, "kernels/cuda") && is_under(include.name, "kernels/cpu"));
  if (crosses) problems.push_back(at_line(file, include.line) + "backends do not see each other");
}

void check_foreign_include(const SourceFile& file, const Include& include,
                           std::vector<std::string>& problems) {
  for (const auto& [prefix, folders] : restricted_headers()) {
    if (include.name.compare(0, prefix.size(), prefix) != 0) continue;
    const bool allowed =
        std::any_of(folders.begin(), folders.end(), [&](const std::string& folder) {
          return is_under(file.path, folder) || is_under(file.path, "tests/" + folder);
        });
    if (!allowed) {
      problems.push_back(at_line(file, include.line) + "<" + include.name + "> belongs to " +
                         folders.front());
    }
    return;
  }
}

std::vector<std::string> include_problems(const std::vector<SourceFile>& files) {
  std::set<std::string> paths;
  for (const SourceFile& file : files) paths.insert(file.path);
  std::vector<std::string> problems;
  for (const SourceFile& file : files) {
    for (const Include& include : includes_of(file)) {
      if (paths.contains(include.name)) {
        if (!include.quoted) {
          problems.push_back(at_line(file, include.line) + "project header in <>: " + include.name);
        }
        check_project_include(file, include, problems);
      } else if (include.quoted && !is_generated(include.name)) {
        problems.push_back(at_line(file, include.line) +
                           "no such file from the root: " + include.name);
      } else {
        check_foreign_include(file, include, problems);
      }
    }
  }
  return problems;
}

// Identifiers of the code (comments and strings blanked), with what stands around them.
struct Token {
  std::string text;
  int line = 0;
  bool called = false;  // followed by (
  bool member = false;  // preceded by . or ->
};

std::vector<Token> tokens_of(const SourceFile& file) {
  const std::string code = without_comments(file.text, false);
  const auto is_word = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
  };
  std::vector<Token> tokens;
  int line = 1;
  for (size_t i = 0; i < code.size(); ++i) {
    if (code[i] == '\n') ++line;
    if (!is_word(code[i])) continue;
    size_t end = i;
    while (end < code.size() && is_word(code[end])) ++end;
    const bool member =
        i > 0 && (code[i - 1] == '.' || (i > 1 && code[i - 1] == '>' && code[i - 2] == '-'));
    tokens.push_back(
        {code.substr(i, end - i), line, end < code.size() && code[end] == '(', member});
    i = end - 1;
  }
  return tokens;
}

bool in_library(const std::string& path) {
  return !is_under(path, "launch") && !is_under(path, "tests");
}

// A failed assertion is the one thing a library reports by itself: the process ends with it.
bool may_print(const std::string& path) { return path == "runtime/errors.cc"; }
bool may_read_environment(const std::string& path) {
  return !in_library(path) || path == "parallel/mpi_runtime.cc";
}

std::vector<std::string> call_problems(const SourceFile& file) {
  static const std::set<std::string> printing = {"printf", "fprintf", "vprintf", "puts", "putchar"};
  static const std::set<std::string> streams = {"cout", "cerr", "clog"};
  static const std::set<std::string> ending = {"exit", "quick_exit"};
  std::vector<std::string> problems;
  for (const Token& token : tokens_of(file)) {
    const bool call = token.called && !token.member;
    if (call && (token.text == "getenv" || token.text == "secure_getenv") &&
        !may_read_environment(file.path)) {
      problems.push_back(at_line(file, token.line) + "only launch reads the environment");
    }
    if (!in_library(file.path)) continue;
    if (((call && printing.contains(token.text)) || streams.contains(token.text)) &&
        !may_print(file.path)) {
      problems.push_back(at_line(file, token.line) + "library code does not print: " + token.text);
    }
    if (call && ending.contains(token.text)) {
      problems.push_back(at_line(file, token.line) + "library code does not end the process");
    }
  }
  return problems;
}

std::vector<std::string> heading_problems(const SourceFile& file) {
  std::vector<std::string> problems;
  const std::vector<std::string> lines = split_lines(file.text);
  if (lines.empty() || lines[0] != "// SPDX-License-Identifier: Apache-2.0") {
    problems.push_back(file.path + ":1: no SPDX line");
  }
  if (!file.path.ends_with(".h") && !file.path.ends_with(".cuh")) return problems;
  if (lines.size() < 2 || !lines[1].starts_with("// ")) {
    problems.push_back(file.path + ":2: a header begins with a sentence that says what it is");
  }
  if (std::find(lines.begin(), lines.end(), "#pragma once") == lines.end()) {
    problems.push_back(file.path + ": no #pragma once");
  }
  return problems;
}

std::string joined(const std::vector<std::string>& problems) {
  std::string text;
  for (const std::string& problem : problems) text += "\n  " + problem;
  return text;
}

template <class Check>
std::vector<std::string> over_tree(Check check) {
  std::vector<std::string> problems;
  for (const SourceFile& file : read_source_tree(".")) {
    for (std::string& problem : check(file)) problems.push_back(std::move(problem));
  }
  return problems;
}

TEST(Layering, TreeIsReadFromTheRepositoryRoot) {
  EXPECT_GT(read_source_tree(".").size(), 50u) << "run in the repository root";
}

TEST(Layering, IncludesPointDownwardOnly) {
  const std::vector<std::string> problems = include_problems(read_source_tree("."));
  EXPECT_TRUE(problems.empty()) << joined(problems);
}

TEST(Layering, LibrariesNeitherPrintNorExitNorReadTheEnvironment) {
  const std::vector<std::string> problems = over_tree(call_problems);
  EXPECT_TRUE(problems.empty()) << joined(problems);
}

TEST(Layering, FilesBeginWithLicenceAndPurpose) {
  const std::vector<std::string> problems = over_tree(heading_problems);
  EXPECT_TRUE(problems.empty()) << joined(problems);
}

// The checks themselves, on small trees that are wrong in one way each.

size_t problems_of_includes(const std::string& path, const std::string& line) {
  return include_problems({{path, "// x\n" + line + "\n"},
                           {"runtime/tensor.h", ""},
                           {"runtime/io/json.h", ""},
                           {"kernels/matmul.h", ""},
                           {"kernels/cpu/gemm.h", ""},
                           {"optim/optimizer.h", ""},
                           {"launch/trainer.h", ""}})
      .size();
}

TEST(LayeringCheck, FindsUpwardSidewaysAndUnknownIncludes) {
  EXPECT_EQ(problems_of_includes("kernels/a.cc", "#include \"runtime/tensor.h\""), 0u);
  EXPECT_EQ(problems_of_includes("kernels/a.cc", "#include \"launch/trainer.h\""), 1u);
  EXPECT_EQ(problems_of_includes("kernels/a.cc", "#include \"runtime/io/json.h\""), 1u);
  EXPECT_EQ(problems_of_includes("runtime/a.cc", "#  include \"runtime/io/json.h\""), 1u);
  EXPECT_EQ(problems_of_includes("model/a.cc", "#include \"optim/optimizer.h\""), 1u);
  EXPECT_EQ(problems_of_includes("model/a.cc", "#include \"kernels/cpu/gemm.h\""), 1u);
  EXPECT_EQ(problems_of_includes("kernels/a.cc", "#include \"kernels/cpu/gemm.h\""), 0u);
  EXPECT_EQ(problems_of_includes("kernels/a.cc", "#include \"tensor.h\""), 1u);
  EXPECT_EQ(problems_of_includes("kernels/a.cc", "#include <runtime/tensor.h>"), 1u);
  EXPECT_EQ(problems_of_includes("kernels/a.cc", "// #include \"launch/trainer.h\""), 0u);
  EXPECT_EQ(problems_of_includes("kernels/a.cc", "const char* s = R\"(\n#include <mpi.h>\n)\";"),
            0u);
}

TEST(LayeringCheck, FindsForeignHeadersOutsideTheirFolder) {
  EXPECT_EQ(problems_of_includes("parallel/a.cc", "#include <mpi.h>"), 0u);
  EXPECT_EQ(problems_of_includes("tests/parallel/a.cc", "#include <mpi.h>"), 0u);
  EXPECT_EQ(problems_of_includes("model/a.cc", "#include <mpi.h>"), 1u);
  EXPECT_EQ(problems_of_includes("launch/trainer.cc", "#include <yaml-cpp/yaml.h>"), 1u);
  EXPECT_EQ(problems_of_includes("launch/config/a.cc", "#include <yaml-cpp/yaml.h>"), 0u);
  EXPECT_EQ(problems_of_includes("kernels/matmul.cc", "#include <oneapi/dnnl/dnnl.hpp>"), 1u);
  EXPECT_EQ(problems_of_includes("runtime/a.cc", "#include <vector>"), 0u);
}

TEST(LayeringCheck, FindsCallsThatBelongToTheProgram) {
  const auto count = [](const std::string& path, const std::string& text) {
    return call_problems({path, text}).size();
  };
  EXPECT_EQ(count("model/a.cc", "void f() { std::printf(\"x\"); }"), 1u);
  EXPECT_EQ(count("model/a.cc", "void f() { std::snprintf(b, 2, \"printf(\"); }  // printf("), 0u);
  EXPECT_EQ(count("model/a.cc", "std::ostream& s = std::cout;"), 1u);
  EXPECT_EQ(count("model/a.cc", "void f() { std::exit(1); }"), 1u);
  EXPECT_EQ(count("model/a.cc", "void f() { scope.exit(1); }"), 0u);
  EXPECT_EQ(count("model/a.cc", "auto* v = std::getenv(\"HOME\");"), 1u);
  EXPECT_EQ(count("launch/a.cc", "auto* v = std::getenv(\"HOME\"); std::exit(2);"), 0u);
}

TEST(LayeringCheck, FindsMissingHeadings) {
  EXPECT_EQ(heading_problems({"model/a.cc", "int x;\n"}).size(), 1u);
  EXPECT_EQ(
      heading_problems({"model/a.h", "// SPDX-License-Identifier: Apache-2.0\nint x;\n"}).size(),
      2u);
}

}  // namespace
}  // namespace rankwise::testing
