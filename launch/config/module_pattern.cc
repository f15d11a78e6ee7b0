// SPDX-License-Identifier: Apache-2.0
#include "launch/config/module_pattern.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/errors.h"

namespace rankwise {

namespace {

constexpr size_t kMaxAlternatives = 1024;
constexpr size_t kMaxPatternLength = 1000;
constexpr size_t kMaxExpandedLength = size_t{1} << 20;

struct BraceGroup {
  size_t open = 0;
  size_t close = 0;
  std::vector<std::string> alternatives;
};

// The first outermost {...}; open == npos when there is none.
BraceGroup find_brace_group(std::string_view pattern) {
  BraceGroup group = {.open = std::string_view::npos, .close = 0, .alternatives = {}};
  int depth = 0;
  size_t begin = 0;
  const auto end_alternative = [&](size_t end) {
    group.alternatives.emplace_back(pattern.substr(begin, end - begin));
    begin = end + 1;
  };
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '{' && depth++ == 0) {
      group.open = i;
      begin = i + 1;
    } else if (pattern[i] == '}' && --depth <= 0) {
      if (depth < 0) break;
      end_alternative(i);
      group.close = i;
      return group;
    } else if (pattern[i] == ',' && depth == 1) {
      end_alternative(i);
    }
  }
  if (depth != 0) throw ConfigError(fmt::format("unbalanced braces in {}", quote(pattern)));
  return group;
}

// `room`: characters that patterns on the way to the alternatives may still have; groups of one
// alternative and nested ones multiply them, not the alternatives.
void expand_into(std::string_view pattern, size_t& room, std::vector<std::string>& out) {
  if (pattern.size() > room) {
    throw ConfigError(
        fmt::format("braces that expand to more than {} characters", kMaxExpandedLength));
  }
  room -= pattern.size();
  const BraceGroup group = find_brace_group(pattern);
  if (group.open == std::string_view::npos) {
    if (out.size() >= kMaxAlternatives) {
      throw ConfigError(fmt::format("more than {} alternatives in braces", kMaxAlternatives));
    }
    out.emplace_back(pattern);
    return;
  }
  for (const std::string& alternative : group.alternatives) {
    expand_into(fmt::format("{}{}{}", pattern.substr(0, group.open), alternative,
                            pattern.substr(group.close + 1)),
                room, out);
  }
}

// Greedy with one step back: on a mismatch the latest `*` takes one more character. Never more than
// |glob| * |name| steps.
bool matches_plain_glob(std::string_view glob, std::string_view name) {
  size_t g = 0;
  size_t n = 0;
  size_t star = std::string_view::npos;
  size_t star_end = 0;  // where the text taken by the latest star ends
  while (n < name.size()) {
    if (g < glob.size() && glob[g] == '*') {
      star = g++;
      star_end = n;
    } else if (g < glob.size() && (glob[g] == '?' || glob[g] == name[n])) {
      ++g;
      ++n;
    } else if (star != std::string_view::npos) {
      g = star + 1;
      n = ++star_end;
    } else {
      return false;
    }
  }
  return glob.find_first_not_of('*', g) == std::string_view::npos;
}

}  // namespace

std::vector<std::string> expand_braces(std::string_view pattern) {
  if (pattern.size() > kMaxPatternLength) {
    throw ConfigError(fmt::format("a glob may have at most {} characters", kMaxPatternLength));
  }
  std::vector<std::string> globs;
  size_t room = kMaxExpandedLength;
  expand_into(pattern, room, globs);
  return globs;
}

bool matches_glob(std::string_view pattern, std::string_view name) {
  const std::vector<std::string> globs = expand_braces(pattern);
  return std::any_of(globs.begin(), globs.end(),
                     [&](const std::string& glob) { return matches_plain_glob(glob, name); });
}

bool matches(const AdaptRule& rule, std::string_view module, ModuleKind kind) {
  return std::any_of(rule.match.begin(), rule.match.end(), [&](const std::string& pattern) {
    if (pattern == "all-linear") return kind == ModuleKind::kBlockLinear;
    return matches_glob(pattern, module);
  });
}

}  // namespace rankwise
