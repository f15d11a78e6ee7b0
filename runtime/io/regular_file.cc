// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/regular_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runtime/errors.h"

namespace rankwise {

RegularFile::RegularFile(std::string path) : path_(std::move(path)) {
  if (path_.find('\0') != std::string::npos) {
    throw FormatError(fmt::format("{}: file name contains NUL", quote(path_)));
  }
  // Non-blocking, so that opening a pipe does not wait for a writer.
  descriptor_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) {
    throw FormatError(fmt::format("{}: cannot be opened: {}", path_, std::strerror(errno)));
  }
  struct stat status {};
  const bool known = fstat(descriptor_, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    close(descriptor_);
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
  if (got < 0) {
    throw FormatError(fmt::format("{}: cannot be read: {}", path_, std::strerror(errno)));
  }
  return static_cast<size_t>(got);
}

void RegularFile::read_at(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = pread(descriptor_, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw FormatError(fmt::format("{}: cannot be read: {}", path_, std::strerror(errno)));
    }
    if (got == 0) {
      throw FormatError(
          fmt::format("{}: ends at byte {}, it had {} when opened", path_, offset, size_));
    }
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
}

}  // namespace rankwise
