// SPDX-License-Identifier: Apache-2.0
// Version, commit, backends and library versions of this program.
#pragma once

#include <string>

#include "runtime/io/json.h"

namespace rankwise {

std::string program_version();  // "0.1.0"
std::string git_commit();       // 12 digits, "-dirty" when the tree differed; "unknown" without git
// Keys version, commit, build_type, compiler, backends, libraries; for run.json.
Json version_json();
// What `rankwise --version` prints, several lines.
std::string version_text();

}  // namespace rankwise
