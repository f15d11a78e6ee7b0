// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/regular_file.h"

#include <fcntl.h>
#include <sys/mman.h>
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

MappedFile::MappedFile(const std::string& path) {
  const RegularFile file(path);
  if (file.size() == 0) return;  // cannot be mapped, and there is nothing to see
  const auto bytes = static_cast<size_t>(file.size());
  void* address = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
  if (address == MAP_FAILED) {
    throw FormatError(fmt::format("{}: cannot be mapped: {}", path, std::strerror(errno)));
  }
  bytes_ = {static_cast<const std::byte*>(address), bytes};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace rankwise
