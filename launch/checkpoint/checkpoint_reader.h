// SPDX-License-Identifier: Apache-2.0
// CheckpointReader: a verified checkpoint, of which any rank of any layout reads what it needs.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launch/checkpoint/checkpoint_manifest.h"
#include "parallel/communicator.h"
#include "runtime/io/hdf5_file.h"
#include "runtime/stream.h"

namespace rankwise {

// Of a checkpoint's folder; its bytes into `text` if given. FormatError when there is none, it is
// damaged, or of another step than the folder's name says.
CheckpointManifest read_manifest(const std::string& folder, std::string* text = nullptr);

class CheckpointReader {
 public:
  // Called by all ranks, which share the work of verifying: manifest, then size and digest of every
  // file, then what the files say they hold. FormatError, the same on all ranks, naming file and
  // tensor. Nothing in a checkpoint is ever run.
  CheckpointReader(std::string path, Communicator& world);

  const std::string& path() const { return path_; }
  int64_t step() const { return manifest_.step; }
  const Json& scalars() const { return manifest_.scalars; }
  const CheckpointManifest& manifest() const { return manifest_; }
  // Files beside those of the checkpoint, which are not looked at.
  const std::vector<std::string>& warnings() const { return warnings_; }

  // Fills tensor.value from the files that hold parts of it. FormatError naming the tensor when the
  // checkpoint has no such one, of that type and shape, or when it is bound to another layout.
  void read(const CheckpointTensor& tensor, Stream& stream) const;
  // Called by all ranks with the list they would save: reads all, and demands that the checkpoint
  // holds nothing else. FormatError, the same on all ranks.
  void restore(std::span<const CheckpointTensor> tensors, Stream& stream) const;

 private:
  const Hdf5File& file(size_t index) const;
  // Rows of `wanted`, from all pieces that hold some of it.
  void assemble(const std::string& name, const CheckpointEntry& entry, const MatrixSlice& wanted,
                std::byte* out) const;
  void read_bound(const CheckpointTensor& tensor, const CheckpointEntry& entry,
                  Stream& stream) const;

  std::string path_;
  Communicator* world_;
  CheckpointManifest manifest_;
  std::vector<std::string> warnings_;
  mutable std::map<size_t, std::unique_ptr<Hdf5File>> open_;
};

struct FoundCheckpoint {
  std::optional<CheckpointReader> reader;  // absent when the folder holds no checkpoint
  std::vector<std::string> warnings;       // why newer ones were passed over
};

// Called by all ranks: the newest checkpoint of a run's folder that passes verification.
// FormatError when there are some and none does: a run does not begin anew unasked.
FoundCheckpoint find_checkpoint(const std::string& run_folder, Communicator& world);

}  // namespace rankwise
