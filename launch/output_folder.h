// SPDX-License-Identifier: Apache-2.0
// Where verbs may write a folder, and what helps when they cannot.
#pragma once

#include <string>
#include <string_view>

namespace rankwise {

// ConfigError naming --output unless `folder` is absent or empty, or `overwrite` is set and it
// holds a file `marker` ("config.json"): a folder of another kind is never replaced, whatever the
// flags.
void require_output_folder(const std::string& folder, const std::string& marker, bool overwrite);
// ConfigError when the output is the folder `input` that is read.
void require_other_folder(const std::string& folder, const std::string& input);

// To follow the message of a failed write that names the system's error: what to do about a full
// disk or quota, otherwise "".
std::string disk_advice(std::string_view message);

}  // namespace rankwise
