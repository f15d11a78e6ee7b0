// SPDX-License-Identifier: Apache-2.0
// CheckpointState: what a run hands over to be saved, named and placed independently of the layout.
#pragma once

#include <string>
#include <vector>

#include "parallel/device_mesh.h"
#include "parallel/shard_spec.h"
#include "runtime/io/json.h"
#include "runtime/tensor.h"

namespace rankwise {

// A tensor as this rank holds it, and which part of the whole that is. The same list serves to save
// and to restore.
struct CheckpointTensor {
  std::string name;  // unique; not empty, no '/'
  Tensor value;      // contiguous, the elements of `part`; on any device
  Shape shape;       // of the whole
  // Of the whole seen as a matrix: dimension 0 by all others, (n, 1) for vectors.
  MatrixSlice part;
  bool writes = true;  // exactly one of the ranks that hold this part writes it
  // Codes and scales of blocks of `part`: `value` has a shape of its own, and only a rank that
  // holds the same part can use it.
  bool layout_bound = false;
};

struct CheckpointState {
  int64_t step = 0;
  bool best = false;  // so far: BEST will point here
  std::vector<CheckpointTensor> tensors{};
  // Of rank 0; everything that is no tensor. Numbers must be finite and texts UTF-8. An object.
  Json scalars = Json::object();
};

// A tensor before its place among the ranks is worked out.
struct LocalTensor {
  std::string name;
  Tensor value;
  Shape shape;  // of this rank's part; differs from that of `value` only when layout_bound
  ShardSpec spec;
  bool layout_bound = false;
};

// Whether this rank is the one that writes its part: rank 0 of the data axis, and of the tensor
// axis the first rank that holds the part.
bool writes_part(const ShardSpec& spec, const DeviceMesh& mesh);
// Called by all ranks with the same names in the same order.
std::vector<CheckpointTensor> place_tensors(std::vector<LocalTensor> tensors,
                                            const DeviceMesh& mesh);

// Dimension 0 by all others.
MatrixSlice whole_part(const Shape& shape);
bool same_part(const MatrixSlice& a, const MatrixSlice& b);
// "(512, 64)[0:256, 0:64]"
std::string part_text(const Shape& shape, const MatrixSlice& part);

}  // namespace rankwise
