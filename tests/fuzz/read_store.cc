// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "runtime/arena.h"
#include "runtime/errors.h"
#include "runtime/io/hdf5_file.h"
#include "runtime/io/quantized_store.h"
#include "tests/fuzz/readers.h"
#include "tests/fuzz/sandbox.h"

namespace rankwise::testing {
namespace {

// Whatever lies in the root, also in files that are no store: Hdf5File is used for others too.
void read_members(const std::string& path) {
  const Hdf5File file(path, Hdf5File::Mode::kRead);
  for (const std::string& name : file.list("/")) {
    const std::string place = "/" + name;
    try {
      file.contains_attribute(place, "scheme");
      const Tensor measured(nullptr, file.dtype(place), file.shape(place));
      std::vector<std::byte> bytes(static_cast<size_t>(measured.bytes()));
      file.read(place, Tensor(bytes.data(), measured.dtype(), measured.shape()));
    } catch (const FormatError&) {  // a group, or a dataset that is not read
    }
  }
}

}  // namespace

void read_store(std::string_view bytes) {
  const std::string path = Sandbox::instance().put("input.h5", bytes);
  read_members(path);
  if (!is_quantized_store(path)) throw FormatError(path + ": not a quantised store");
  for (const std::string& name : store_files(path)) read_store_file(path, name);
  const auto weights = open_quantized_store(path);
  Arena arena;
  for (const std::string& name : weights->names()) {
    if (weights->read_quantized(name, arena, "q")) continue;
    const Tensor out = arena.allocate("dense", DType::kF32, weights->shape(name));
    weights->read(name, out);
  }
}

}  // namespace rankwise::testing
