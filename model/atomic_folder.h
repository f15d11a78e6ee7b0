// SPDX-License-Identifier: Apache-2.0
// AtomicFolder: a folder that appears under its name complete and synced, or not at all.
#pragma once

#include <string>
#include <string_view>

namespace rankwise {

// Files go to "<folder>.tmp-<pid>" beside the final place. Without commit() the destructor removes
// them. Every failure is a DiskError naming the path.
class AtomicFolder {
 public:
  explicit AtomicFolder(const std::string& folder);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::string& temporary_path() const { return temporary_; }
  // FormatError when `name` is not a plain file name.
  void write(const std::string& name, std::string_view content) const;
  // Renames. What stood under the name before is gone afterwards: the caller decided that it may
  // be.
  void commit();

 private:
  std::string folder_;
  std::string temporary_;
  bool committed_ = false;
};

}  // namespace rankwise
