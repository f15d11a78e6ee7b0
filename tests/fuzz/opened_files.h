// SPDX-License-Identifier: Apache-2.0
// Which files a piece of work opens, as the kernel sees it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace rankwise::testing {

// Real paths (links followed) of all files that `work` opens or tries to, in order; libraries that
// are loaded count. It runs on a thread of its own; what it throws is thrown here. nullopt, with
// `work` left out, when the kernel does not let a program watch itself (seccomp notifications).
std::optional<std::vector<std::string>> opened_by(const std::function<void()>& work);

}  // namespace rankwise::testing
