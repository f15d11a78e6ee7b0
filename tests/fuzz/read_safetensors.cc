// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "runtime/errors.h"
#include "runtime/io/safetensors.h"
#include "tests/fuzz/readers.h"
#include "tests/fuzz/sandbox.h"

namespace rankwise::testing {

void read_safetensors(std::string_view bytes) {
  const SafetensorsFile file(Sandbox::instance().put("input.safetensors", bytes));
  for (const SafetensorsEntry& entry : file.entries()) {
    file.read_bytes(file.at(entry.name));
    for (const DType dtype : {DType::kF32, DType::kI64}) {
      const Tensor measured(nullptr, dtype, entry.shape);
      std::vector<std::byte> values(static_cast<size_t>(measured.bytes()));
      try {
        file.read(entry, Tensor(values.data(), dtype, entry.shape));
      } catch (const FormatError&) {  // not every type converts to both
      }
    }
  }
}

}  // namespace rankwise::testing
