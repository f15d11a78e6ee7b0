// SPDX-License-Identifier: Apache-2.0
// The HDF5 file in which one rank keeps its parts of a checkpoint.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "launch/checkpoint/checkpoint_manifest.h"
#include "runtime/stream.h"

namespace rankwise {

// Files are read in blocks of whole rows of about this size.
inline constexpr int64_t kCheckpointBlockBytes = int64_t{16} << 20;

// Copies in host memory (page-locked for a GPU) of what this rank writes. The memory is kept for
// the next time.
class CheckpointSnapshot {
 public:
  // Returns when all values are copied: they may change at once.
  void take(const std::vector<CheckpointTensor>& tensors, Stream& stream);
  const std::vector<CheckpointTensor>& tensors() const { return tensors_; }  // of take(), copied

 private:
  std::shared_ptr<std::byte[]> memory_;
  int64_t bytes_ = 0;  // of the memory
  std::vector<CheckpointTensor> tensors_;
};

// Writes, closes, syncs, and reads the file again for its digest. DiskError; kDiverged naming a
// tensor with values that are not finite: a run that resumed there would be lost.
CheckpointFile write_rank_file(const std::string& folder, int rank,
                               const std::vector<CheckpointTensor>& tensors);

// Size, digest, and names, types, shapes and places of all datasets against the manifest.
// FormatError naming the file and, where one is damaged, the tensor.
void verify_rank_file(const std::string& folder, const CheckpointManifest& manifest, size_t file);

// The cheap half: all files are there and have their size. FormatError naming the file.
void require_files(const std::string& folder, const CheckpointManifest& manifest);

}  // namespace rankwise
