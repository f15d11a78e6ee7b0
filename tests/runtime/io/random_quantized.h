// SPDX-License-Identifier: Apache-2.0
// Quantised tensors of arbitrary codes and scales.
#pragma once

#include <string_view>

#include "runtime/arena.h"
#include "runtime/quantized_tensor.h"
#include "runtime/rng.h"

namespace rankwise::testing {

inline void fill_randomly(const Tensor& tensor, std::string_view name) {
  const Rng rng(1, name);
  auto* bytes = static_cast<uint8_t*>(tensor.raw());
  for (int64_t i = 0; i < tensor.bytes(); ++i) {
    bytes[i] = static_cast<uint8_t>(rng.bits(static_cast<uint64_t>(i)));
  }
}

// By default an odd number of elements whose blocks run across row ends.
inline QuantizedTensor make_quantized(Arena& arena, bool nested, const Shape& shape = {333, 67}) {
  QuantizedTensor tensor;
  tensor.shape = shape;
  tensor.block_size = 64;
  tensor.source_dtype = DType::kBF16;
  tensor.codes = arena.allocate("q", DType::kU8, Shape{(shape.numel() + 1) / 2});
  const int64_t blocks = tensor.blocks();
  tensor.absmax = arena.allocate("q", nested ? DType::kU8 : DType::kF32, Shape{blocks});
  fill_randomly(tensor.codes, "codes");
  fill_randomly(tensor.absmax, "absmax");
  if (nested) {
    tensor.nested_absmax = arena.allocate("q", DType::kF32, Shape{(blocks + 255) / 256});
    tensor.nested_map = arena.allocate("q", DType::kF32, Shape{256});
    tensor.nested_offset = 0.1f;
    fill_randomly(tensor.nested_absmax, "nested_absmax");
    fill_randomly(tensor.nested_map, "nested_map");
  }
  return tensor;
}

}  // namespace rankwise::testing
