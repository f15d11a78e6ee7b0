// SPDX-License-Identifier: Apache-2.0
// The HDF5 store that `rankwise quantize` writes: NF4 codes and scales, dense rest, config,
// tokenizer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/io/weight_source.h"

namespace rankwise {

// Written once, tensor by tensor, to a temporary file; commit() verifies, syncs and renames.
// Layout: /tensors/<name> (dense), /tensors/<name>.{codes,absmax,nested_absmax,nested_map} with
// attributes scheme, rows, columns, block_size, source_dtype and nested_offset on the codes;
// /files/<file name> (u1) holds config.json and the tokenizer files, so that a store is a model of
// its own; attributes format and version on the root. Chunked, fletcher32, V110 bounds. Names must
// not contain '/'.
class QuantizedStoreWriter {
 public:
  explicit QuantizedStoreWriter(const std::string& path);
  ~QuantizedStoreWriter();  // removes the temporary file when not committed
  void add(const std::string& name, const Tensor& tensor);
  void add(const std::string& name, const QuantizedTensor& tensor);
  void add_file(const std::string& file_name, const std::string& content);
  void commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// False for what is not an HDF5 file, or one of another kind; FormatError for a damaged HDF5 file.
bool is_quantized_store(const std::string& path);
// Content of a file kept in the store; FormatError when absent.
std::string read_store_file(const std::string& path, const std::string& file_name);
std::vector<std::string> store_files(const std::string& path);
std::unique_ptr<WeightSource> open_quantized_store(const std::string& path);

}  // namespace rankwise
