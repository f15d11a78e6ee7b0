// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "runtime/errors.h"
#include "runtime/io/regular_file.h"

namespace rankwise {
namespace {

DiskError disk_error(const std::string& path, std::string_view action, int error) {
  return DiskError(fmt::format("{}: {} failed: {}", path, action, std::strerror(error)));
}

// Opens a file or folder for fsync only.
void sync_path(const std::string& path, int flags) {
  const int descriptor = open(path.c_str(), flags | O_CLOEXEC);
  if (descriptor < 0) throw disk_error(path, "open for sync", errno);
  const int error = fsync(descriptor) == 0 ? 0 : errno;
  close(descriptor);
  // Some file systems cannot sync a folder; nothing more can be done there.
  if (error != 0 && error != EINVAL && error != ENOTSUP) throw disk_error(path, "sync", error);
}

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

bool is_below(const std::filesystem::path& path, const std::filesystem::path& folder) {
  const std::filesystem::path relative = path.lexically_relative(folder);
  return !relative.empty() && *relative.begin() != ".." && relative != ".";
}

}  // namespace

AtomicFile::AtomicFile(std::string path)
    : path_(std::move(path)), temporary_(temporary_name(path_)) {
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  descriptor_ = open(temporary_.c_str(), kFlags, 0666);
  if (descriptor_ < 0 && errno == EEXIST) {
    // Left by a dead process that had our number.
    unlink(temporary_.c_str());
    descriptor_ = open(temporary_.c_str(), kFlags, 0666);
  }
  if (descriptor_ < 0) throw disk_error(temporary_, "create", errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!committed_) unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  RW_ASSERT(descriptor_ >= 0, "{} is committed", path_);
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw disk_error(temporary_, "write", errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void AtomicFile::commit() {
  RW_ASSERT(descriptor_ >= 0, "{} is committed", path_);
  if (fsync(descriptor_) != 0) throw disk_error(temporary_, "sync", errno);
  // The descriptor is gone whatever close() returns.
  if (close(std::exchange(descriptor_, -1)) != 0) throw disk_error(temporary_, "close", errno);
  rename_path(temporary_, path_);
  committed_ = true;
  sync_folder(folder_of(path_));
}

void write_file_atomically(const std::string& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

std::string read_file(const std::string& path, int64_t max_bytes) {
  RegularFile file(path);
  if (file.size() > max_bytes) {
    throw FormatError(
        fmt::format("{}: {} bytes, more than the {} allowed", path, file.size(), max_bytes));
  }
  std::string content(static_cast<size_t>(file.size()), '\0');
  std::span<std::byte> rest = std::as_writable_bytes(std::span(content));
  while (!rest.empty()) {
    const size_t got = file.read_some(rest);
    if (got == 0) throw FormatError(fmt::format("{}: became shorter while being read", path));
    rest = rest.subspan(got);
  }
  return content;
}

std::string temporary_name(const std::string& path) {
  return fmt::format("{}.tmp-{}", path, getpid());
}

void publish_file(const std::string& temporary, const std::string& path) {
  sync_path(temporary, O_RDONLY);
  rename_path(temporary, path);
  sync_folder(folder_of(path));
}

void rename_path(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) throw disk_error(to, "rename", errno);
}

void make_folders(const std::string& path) {
  std::filesystem::path made;
  for (const std::filesystem::path& part : std::filesystem::path(path)) {
    made /= part;
    std::error_code ignored;
    if (std::filesystem::is_directory(made, ignored)) continue;
    const int error = mkdir(made.c_str(), 0777) == 0 ? 0 : errno;
    // Another process may have been quicker.
    if (error != 0 && !std::filesystem::is_directory(made, ignored)) {
      throw disk_error(path, "create", error == EEXIST ? ENOTDIR : error);
    }
    // A folder that may be written, but not read, cannot be synced.
    const std::string parent = folder_of(made);
    if (access(parent.c_str(), R_OK) == 0 || errno != EACCES) sync_folder(parent);
  }
}

void sync_folder(const std::string& folder) { sync_path(folder, O_RDONLY | O_DIRECTORY); }

std::string path_inside(const std::string& folder, std::string_view name, std::string_view source) {
  namespace fs = std::filesystem;
  const auto refuse = [&](std::string_view reason) {
    return FormatError(fmt::format("{}: file name {} {}", source, quote(name), reason));
  };
  constexpr size_t kLongestName = 1024;
  if (name.empty()) throw refuse("is empty");
  if (name.size() > kLongestName) throw refuse("is longer than 1024 characters");
  if (name.find('\0') != std::string_view::npos) throw refuse("contains NUL");
  for (const char c : name) {  // messages about the file are to stay one line
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      throw refuse("contains a control character");
    }
  }
  if (name.find('\\') != std::string_view::npos) throw refuse("contains a backslash");
  const fs::path relative(name);
  if (relative.is_absolute()) throw refuse("is absolute");
  for (const fs::path& part : relative) {
    if (part == "..") throw refuse("leaves the folder");
  }
  const fs::path joined = fs::path(folder) / relative;
  std::error_code error;
  const fs::path root = fs::canonical(folder, error);
  if (error) throw_unreadable(folder, error.value());
  const fs::path target = fs::weakly_canonical(joined, error);
  if (error) throw_unreadable(refuse("cannot be followed").what(), error.value());
  const fs::path snapshots = root.parent_path();
  const bool in_hub_cache =
      snapshots.filename() == "snapshots" && is_below(target, snapshots.parent_path() / "blobs");
  if (!is_below(target, root) && !in_hub_cache) throw refuse("is a link out of the folder");
  return joined.string();
}

}  // namespace rankwise
