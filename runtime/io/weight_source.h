// SPDX-License-Identifier: Apache-2.0
// WeightSource: named model weights, read whole or by slice, from an HF folder or a quantised
// store.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/arena.h"
#include "runtime/matrix_slice.h"
#include "runtime/quantized_tensor.h"
#include "runtime/stream.h"

namespace rankwise {

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual std::vector<std::string> names() const = 0;
  virtual bool contains(std::string_view name) const = 0;
  // FormatError naming the tensor and the folder when absent.
  virtual Shape shape(std::string_view name) const = 0;
  virtual DType dtype(std::string_view name) const = 0;
  // Converts to out's dtype. FormatError when shapes differ. With a null address (measuring mode)
  // only the checks are done.
  virtual void read(std::string_view name, const Tensor& out) const = 0;
  virtual void read_rows(std::string_view name, int64_t begin, int64_t end,
                         const Tensor& out) const;
  // Elements [first, first + out.numel()) of the flattened tensor, converted; reads no more than
  // those, or the rows they lie in.
  virtual void read_elements(std::string_view name, int64_t first, const Tensor& out) const = 0;
  // The stored codes and scales of a slice, in tensors of `arena` under `purpose`; nullopt when
  // this source holds the tensor dense, as all do but quantised stores.
  virtual std::optional<QuantizedTensor> read_quantized(std::string_view name,
                                                        const MatrixSlice& slice, Arena& arena,
                                                        std::string_view purpose) const;
  // Of the whole tensor.
  std::optional<QuantizedTensor> read_quantized(std::string_view name, Arena& arena,
                                                std::string_view purpose) const;
  // For sources without stored values (random weights of a benchmark): writes a tensor where it
  // lies, on any device and in out's type. What a rank gets for its slice need not be that part of
  // what an unsharded run gets; ranks with the same shape get the same. False: this source is to be
  // read.
  virtual bool generate(std::string_view name, const Tensor& out, Stream& stream) const {
    static_cast<void>(name), static_cast<void>(out), static_cast<void>(stream);
    return false;
  }
  // The same for a tensor to be held in 4 bits; `out` is allocated.
  virtual bool generate_quantized(std::string_view name, QuantizedTensor& out,
                                  Stream& stream) const {
    static_cast<void>(name), static_cast<void>(out), static_cast<void>(stream);
    return false;
  }
  virtual std::string description() const = 0;  // path, for messages
};

// path: an HF folder (model.safetensors, or model.safetensors.index.json with its shards; shard
// names that leave the folder are refused) or an HDF5 store written by `rankwise quantize`.
std::unique_ptr<WeightSource> open_weights(const std::string& path);

}  // namespace rankwise
