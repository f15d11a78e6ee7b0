// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "runtime/io/weight_source.h"
#include "tests/fuzz/readers.h"
#include "tests/fuzz/sandbox.h"

namespace rankwise::testing {

void read_weight_index(std::string_view bytes) {
  const Sandbox& sandbox = Sandbox::instance();
  sandbox.put("model.safetensors.index.json", bytes);
  const auto weights = open_weights(sandbox.root());
  for (const std::string& name : weights->names()) {
    std::array<float, 4> values;
    weights->read(name, Tensor(values.data(), DType::kF32, {4}));
  }
}

}  // namespace rankwise::testing
