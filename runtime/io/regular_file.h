// SPDX-License-Identifier: Apache-2.0
// RegularFile: an open, read-only regular file; folders, pipes and devices are refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace rankwise {

// FormatError naming path and reason when it cannot be opened or read.
class RegularFile {
 public:
  explicit RegularFile(std::string path);
  ~RegularFile();
  RegularFile(const RegularFile&) = delete;
  RegularFile& operator=(const RegularFile&) = delete;

  int descriptor() const { return descriptor_; }
  int64_t size() const { return size_; }  // when it was opened
  // Up to out.size() bytes from where the last call ended; 0 at the end of the file.
  size_t read_some(std::span<std::byte> out);

 private:
  std::string path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

// The bytes of a regular file, mapped read-only. Whoever shortens the file meanwhile ends this
// process (SIGBUS); replacing it by rename, as AtomicFile does, is safe.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace rankwise
