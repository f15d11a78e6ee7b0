// SPDX-License-Identifier: Apache-2.0
// The tensors of a file as `rankwise inspect` lists them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/tensor.h"

namespace rankwise {

struct TensorRow {
  std::string name;
  std::string storage;  // "F32", "nf4", "nf4 double"
  Shape shape;
  int64_t bytes = 0;
  bool floating = false;  // dense real numbers
};

// Totals by storage; with `list` every tensor too.
std::string describe_tensors(const std::vector<TensorRow>& rows, bool list);

// Reads, by read(name, F32 tensor), the tensors of real numbers. FormatError "<source>: <name>: "
// for a value that is not finite.
void require_finite(const std::vector<TensorRow>& rows, const std::string& source,
                    const std::function<void(const std::string&, const Tensor&)>& read);

}  // namespace rankwise
