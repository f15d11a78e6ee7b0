// SPDX-License-Identifier: Apache-2.0
// CheckpointManifest: what makes a folder of rank files a checkpoint; sealed with its own digest.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "launch/checkpoint/checkpoint_state.h"

namespace rankwise {

inline constexpr const char* kManifestName = "manifest.json";

struct CheckpointFile {
  std::string name;  // rank_file_name() of some rank
  int64_t bytes = 0;
  std::string sha256;
};

// One rank's part of a tensor: dataset "/<tensor>" of a file.
struct CheckpointPiece {
  size_t file = 0;  // index into files
  MatrixSlice part;
  Shape stored;  // shape of the dataset
};

struct CheckpointEntry {
  DType dtype = DType::kF32;
  Shape shape;  // of the whole
  bool layout_bound = false;
  std::vector<CheckpointPiece> pieces;  // they tile the whole
};

struct CheckpointManifest {
  int64_t step = 0;
  int ranks = 0;  // of the run that wrote it
  std::vector<CheckpointFile> files{};
  std::map<std::string, CheckpointEntry> tensors{};
  Json scalars = Json::object();
};

// "rank-0003.h5"
std::string rank_file_name(int rank);
// Shape of the dataset that holds a part which is not layout-bound: (rows) or (rows, columns).
Shape stored_shape(const Shape& whole, const MatrixSlice& part);

// JSON on one line. The last member is the SHA-256 of all bytes before it.
std::string manifest_text(const CheckpointManifest& manifest);
// Every bit is covered by the digest; every number is checked besides: pieces tile their tensors,
// names are plain. FormatError naming `source` and the tensor.
CheckpointManifest parse_manifest(std::string_view text, const std::string& source);

// The index of one rank's tensors as it travels in votes, and its way back into a manifest.
// FormatError when ranks contradict each other.
Json index_of(const std::vector<CheckpointTensor>& tensors);
void add_index(CheckpointManifest& manifest, size_t file, const Json& index);

}  // namespace rankwise
