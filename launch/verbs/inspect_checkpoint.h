// SPDX-License-Identifier: Apache-2.0
// What `rankwise inspect` tells about checkpoints.
#pragma once

#include <exception>
#include <string>
#include <vector>

#include "launch/checkpoint/checkpoint_reader.h"
#include "launch/verbs/tensor_rows.h"

namespace rankwise {

// Step, position, methods, layout, base and versions. FormatError naming what is missing.
std::string describe_checkpoint(const std::string& checkpoint, const CheckpointManifest& manifest);
// By name, whole: whatever parts they are stored in.
std::vector<TensorRow> rows_of(const CheckpointManifest& manifest);

enum class CheckpointDepth {
  kSizes,   // all files are there and have their size
  kValues,  // digests, what the files say they hold, HDF5's checksums; every value is finite
};
// FormatError naming file and tensor.
void verify_checkpoint(const std::string& checkpoint, const CheckpointManifest& manifest,
                       CheckpointDepth depth);

struct CheckpointList {
  std::string text;          // newest first, what is wrong with each, which are LATEST and BEST
  std::exception_ptr fault;  // of the newest that is damaged or cannot be read
};
CheckpointList list_checkpoints(const std::string& run_folder, CheckpointDepth depth);

}  // namespace rankwise
