// SPDX-License-Identifier: Apache-2.0
// MatmulAlgorithms: the cuBLASLt handle of a stream and the algorithm chosen for each shape.
#pragma once

#include <memory>

#include "kernels/cuda/matmul_call.h"

namespace rankwise::cuda {

// State of a stream. The algorithm of a shape (sizes, strides, types, transposes, alignments) is
// chosen at its first use and kept: the quickest of the library's proposals, by timing them, or its
// first proposal when the call or the stream is not to be tuned, during capture of the stream, or
// once kTunedShapes are known (sizes that change with every call are not worth the timing).
class MatmulAlgorithms {
 public:
  static constexpr int kTunedShapes = 256;

  explicit MatmulAlgorithms(Stream& stream);
  ~MatmulAlgorithms();

  // False, with nothing done, when the library has no algorithm for the call. Sizes are at least 1.
  bool run(const MatmulCall& call, void* workspace, Stream& stream);
  // Forgets what was chosen when it changes.
  void set_tuning(bool enabled);

 private:
  struct Library;
  std::unique_ptr<Library> library_;
};

}  // namespace rankwise::cuda
