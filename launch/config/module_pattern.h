// SPDX-License-Identifier: Apache-2.0
// Which adapt rule a module falls under: globs on Hugging Face module names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "launch/config/train_config.h"

namespace rankwise {

// Linear layers inside blocks are what "all-linear" stands for (PEFT: every linear layer but the
// output head); embeddings, norms and the head are reached by globs only.
enum class ModuleKind { kBlockLinear, kOther };

// `*` any run of characters (dots too), `?` one character, {a,b} alternatives, which may nest. The
// whole name must match. Throws ConfigError for unbalanced braces, more than 1024 alternatives, or
// more than 2^20 characters on the way to them.
bool matches_glob(std::string_view pattern, std::string_view name);
// The plain globs (`*` and `?` only) that a pattern with braces stands for.
std::vector<std::string> expand_braces(std::string_view pattern);

bool matches(const AdaptRule& rule, std::string_view module, ModuleKind kind);

}  // namespace rankwise
