// SPDX-License-Identifier: Apache-2.0
// AtomicFile: a file that appears under its name complete and synced, or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace rankwise {

// Writes go to "<path>.tmp-<pid>" in the same folder; commit() flushes, fsyncs, renames and fsyncs
// the folder. Without commit() the destructor removes the temporary file. Every failure is a
// DiskError naming path and errno; the file that stood under the name before is then untouched,
// unless what failed is the last step, the fsync of the folder.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void commit();

  const std::string& temporary_path() const { return temporary_; }

 private:
  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
  bool committed_ = false;
};

// One call for small files.
void write_file_atomically(const std::string& path, std::string_view content);
// Whole file; errors of RegularFile, and FormatError when it exceeds max_bytes.
std::string read_file(const std::string& path, int64_t max_bytes = 1'000'000'000);
// The name AtomicFile writes under, for writers that cannot write through it (HDF5).
std::string temporary_name(const std::string& path);
// For those writers: fsyncs the closed temporary file, renames it, fsyncs the folder. DiskError.
void publish_file(const std::string& temporary, const std::string& path);
// Of a file or folder. DiskError naming `to`.
void rename_path(const std::string& from, const std::string& to);
// A folder, with those above it that are not there; each new name is synced. DiskError.
void make_folders(const std::string& path);
// fsync of a folder, after renames inside it.
void sync_folder(const std::string& folder);
// Joins folder and a file name found inside the file `source`; FormatError when the result leaves
// the folder (absolute, "..", a link out of it), and for empty names, control characters,
// backslashes and more than 1024 bytes. The one link out that is accepted is that of the Hugging
// Face cache, from snapshots/<revision>/ to the blobs/ beside snapshots/.
std::string path_inside(const std::string& folder, std::string_view name, std::string_view source);

}  // namespace rankwise
