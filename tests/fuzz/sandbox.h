// SPDX-License-Identifier: Apache-2.0
// Sandbox: a model folder for one input, and beside it files that no input may reach.
#pragma once

#include <string>
#include <string_view>

#include "tests/support/scratch_folder.h"

namespace rankwise::testing {

// Of the process; removed at its end. The model folder holds shard.safetensors (tensor "w", four
// floats), sub/shard.safetensors (the same), hard.safetensors (a second name of a file that lies
// outside), pipe.safetensors, folder.safetensors/, and the links out.safetensors, out/ and
// device.safetensors.
class Sandbox {
 public:
  static Sandbox& instance();
  Sandbox(const Sandbox&) = delete;
  Sandbox& operator=(const Sandbox&) = delete;

  std::string root() const { return folder_.file("model"); }
  // Holds secret.safetensors and secret.h5, both whole, and secret.bin.
  std::string outside() const { return folder_.file("outside"); }
  // Replaces a file of the model folder; returns its path.
  std::string put(std::string_view name, std::string_view bytes) const;
  // Whether a file of outside() was opened since the last call.
  bool outside_was_opened();

 private:
  Sandbox();
  ~Sandbox();

  ScratchFolder folder_;
  int watch_ = -1;
};

}  // namespace rankwise::testing
