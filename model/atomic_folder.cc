// SPDX-License-Identifier: Apache-2.0
#include "model/atomic_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <system_error>

#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

void remove_tree(const std::string& path) {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

// "runs/adapter/" -> "runs/adapter"
std::string without_trailing_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string parent_of(const std::string& folder) {
  const fs::path parent = fs::path(folder).parent_path();
  return parent.empty() ? "." : parent.string();
}

}  // namespace

AtomicFolder::AtomicFolder(const std::string& folder)
    : folder_(without_trailing_slash(folder)),
      temporary_(fmt::format("{}.tmp-{}", folder_, getpid())) {
  remove_tree(temporary_);  // of a killed process that had our number
  make_folders(temporary_);
}

AtomicFolder::~AtomicFolder() {
  if (!committed_) remove_tree(temporary_);
}

void AtomicFolder::write(const std::string& name, std::string_view content) const {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos) {
    throw FormatError(fmt::format("{}: \"{}\" is not a file name", folder_, name));
  }
  write_file_atomically((fs::path(temporary_) / name).string(), content);
}

void AtomicFolder::commit() {
  sync_folder(temporary_);
  std::string former;
  if (!fs::exists(folder_)) {
    rename_path(temporary_, folder_);
  } else if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, folder_.c_str(), RENAME_EXCHANGE) ==
             0) {
    former = temporary_;
  } else {
    // File systems without exchange: for an instant neither folder has the name, but both exist.
    former = fmt::format("{}.old-{}", folder_, getpid());
    rename_path(folder_, former);
    rename_path(temporary_, folder_);
  }
  committed_ = true;
  sync_folder(parent_of(folder_));
  if (!former.empty()) remove_tree(former);
}

}  // namespace rankwise
