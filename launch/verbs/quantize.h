// SPDX-License-Identifier: Apache-2.0
// `rankwise quantize MODEL -o STORE.h5`: an NF4 store that loads without quantising again.
#pragma once

#include <cstdint>
#include <string>

#include "launch/verbs/verb.h"

namespace rankwise {

struct QuantizeOptions {
  std::string model;  // HF folder
  std::string store;
  bool double_quant = true;
  bool overwrite = false;
};

// Errors are |w - dequantised(w)| over the quantised tensors.
struct QuantizeReport {
  int64_t quantized_tensors = 0;
  int64_t quantized_elements = 0;
  int64_t quantized_bytes = 0;  // codes and scales
  int64_t source_bytes = 0;     // of the quantised tensors, before
  int64_t dense_tensors = 0;
  int64_t dense_bytes = 0;
  double max_error = 0.0;
  std::string max_error_tensor;
  double mean_error = 0.0;
  int64_t peak_bytes = 0;  // memory used, by tensors
};

// Every linear layer of the blocks becomes NF4, the rest keeps its type. Works tensor by tensor.
// ConfigError when the store exists and `overwrite` is not set, or MODEL is a store already;
// DiskError leaves nothing under the name, or what stood there.
QuantizeReport quantize_model(const QuantizeOptions& options);

}  // namespace rankwise
