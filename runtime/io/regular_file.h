// SPDX-License-Identifier: Apache-2.0
// RegularFile: an open, read-only regular file; folders, pipes and devices are refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace rankwise {

// For a call that failed with `error` (errno), "<what>: <its text>": FormatError when there is
// nothing that could be read, else DiskError: what lies there may be good, and readable later.
[[noreturn]] void throw_unreadable(const std::string& what, int error);

// not_found when nothing is there; DiskError when that cannot be told.
std::filesystem::file_type file_type_of(const std::string& path);

// FormatError naming path and reason when it is absent, no regular file, or shorter than it was;
// DiskError when it cannot be opened or read.
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
  // Exactly out.size() bytes from `offset` on, from any thread. Read and not mapped: pages of a
  // mapping count as memory of this process, and a file that shrinks meanwhile would end it.
  void read_at(uint64_t offset, std::span<std::byte> out) const;

 private:
  std::string path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

}  // namespace rankwise
