// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/regular_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runtime/errors.h"

namespace rankwise {

void throw_unreadable(const std::string& what, int error) {
  const std::string message = fmt::format("{}: {}", what, std::strerror(error));
  for (const int absent : {ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG, ENXIO, ENODEV}) {
    if (error == absent) throw FormatError(message);
  }
  throw DiskError(message);
}

std::filesystem::file_type file_type_of(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::status_known(status)) throw DiskError(path + ": " + error.message());
  return status.type();
}

RegularFile::RegularFile(std::string path) : path_(std::move(path)) {
  if (path_.find('\0') != std::string::npos) {
    throw FormatError(fmt::format("{}: file name contains NUL", quote(path_)));
  }
  // Non-blocking, so that opening a pipe does not wait for a writer.
  descriptor_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) throw_unreadable(path_ + ": cannot be opened", errno);
  struct stat status {};
  const int error = fstat(descriptor_, &status) == 0 ? 0 : errno;
  if (error != 0 || !S_ISREG(status.st_mode)) {
    close(descriptor_);
    if (error != 0) throw_unreadable(path_, error);
    throw FormatError(fmt::format("{}: not a regular file", path_));
  }
  size_ = status.st_size;
}

RegularFile::~RegularFile() { close(descriptor_); }

size_t RegularFile::read_some(std::span<std::byte> out) {
  ssize_t got = 0;
  do {
    got = ::read(descriptor_, out.data(), out.size());
  } while (got < 0 && errno == EINTR);
  if (got < 0) throw_unreadable(path_ + ": cannot be read", errno);
  return static_cast<size_t>(got);
}

void RegularFile::read_at(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = pread(descriptor_, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_unreadable(path_ + ": cannot be read", errno);
    if (got == 0) {
      throw FormatError(
          fmt::format("{}: ends at byte {}, it had {} when opened", path_, offset, size_));
    }
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
}

}  // namespace rankwise
