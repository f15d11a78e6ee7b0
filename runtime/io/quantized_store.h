// SPDX-License-Identifier: Apache-2.0
// The HDF5 store that `rankwise quantize` writes: NF4 codes and scales, dense rest, config, tokenizer.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "runtime/io/weight_source.h"

namespace rankwise {

// Written once, tensor by tensor, to a temporary file; commit() verifies, syncs and renames.
// Layout: /tensors/<name> (dense), /tensors/<name>.{codes,absmax,nested_absmax,nested_map} with
// attributes scheme, shape, block_size, nested_offset; /files/<file name> (u1) holds config.json and
// the tokenizer files, so that a store is a model of its own. Chunked, fletcher32, V110 bounds.
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

bool is_quantized_store(const std::string& path);
// Content of a file kept in the store; FormatError when absent.
std::string read_store_file(const std::string& path, const std::string& file_name);
std::vector<std::string> store_files(const std::string& path);
std::unique_ptr<WeightSource> open_quantized_store(const std::string& path);

}  // namespace rankwise
