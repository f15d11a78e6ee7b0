// SPDX-License-Identifier: Apache-2.0
#include "launch/output_folder.h"

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "runtime/errors.h"

namespace rankwise {

namespace fs = std::filesystem;

void require_output_folder(const std::string& folder, const std::string& marker, bool overwrite) {
  if (!fs::exists(folder)) return;
  const bool is_folder = fs::is_directory(folder);
  if (is_folder && fs::is_empty(folder)) return;
  if (!is_folder || !fs::exists(fs::path(folder) / marker)) {
    throw ConfigError(fmt::format(
        "--output: '{}' exists and holds no {}; only such folders are replaced", folder, marker));
  }
  if (!overwrite) {
    throw ConfigError(fmt::format("--output: '{}' exists; --overwrite replaces it", folder));
  }
}

void require_other_folder(const std::string& folder, const std::string& input) {
  std::error_code ignored;
  if (fs::equivalent(folder, input, ignored)) {
    throw ConfigError(fmt::format("--output: '{}' is the folder that is read", folder));
  }
}

std::string disk_advice(std::string_view message) {
  for (const int error : {ENOSPC, EDQUOT}) {
    if (message.find(std::generic_category().message(error)) == std::string_view::npos) continue;
    return "; free space or quota there, or choose another folder (of checkpoints: "
           "checkpoint.dir, or a smaller checkpoint.keep)";
  }
  return "";
}

}  // namespace rankwise
