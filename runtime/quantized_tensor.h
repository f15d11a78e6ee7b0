// SPDX-License-Identifier: Apache-2.0
// QuantizedTensor: codes, scales and scheme of a quantised matrix; Weight: dense or quantised.
#pragma once

#include <cstdint>
#include <variant>

#include "runtime/tensor.h"

namespace rankwise {

enum class QuantScheme { kNf4 };

// NF4 as bitsandbytes stores it: the whole (out, in) matrix flattened row-major, in blocks of
// `block_size` elements that run across row ends; the last block may be short. Two codes per byte,
// the even element in the high nibble. Scales are fp32, or with double quantisation 8-bit codes of
// the signed dynamic map in blocks of 256, plus one offset for the tensor:
//   scale[b] = nested_map[absmax[b]] * nested_absmax[b / 256] + nested_offset
// A slice of a matrix has the codes and the scales of the whole: its codes are packed anew, in its
// own order, its scales are the consecutive blocks of the whole from the first that it touches to
// the last, its nested scales likewise. Element (r, c) is element first + r * row_stride + c of the
// whole and lies in block (that / block_size) of the whole.
struct QuantizedTensor {
  static constexpr int64_t kNestedBlock = 256;

  QuantScheme scheme = QuantScheme::kNf4;
  Shape shape;  // logical (out, in)
  int64_t block_size = 64;
  DType source_dtype = DType::kF32;  // type of the tensor before quantisation
  Tensor codes;                      // U8 (ceil(numel / 2))
  Tensor absmax;                     // F32 (blocks), or U8 (blocks) when nested
  Tensor nested_absmax;              // F32 (ceil(blocks / 256)); undefined when not nested
  Tensor nested_map;                 // F32 (256); undefined when not nested
  float nested_offset = 0.0f;
  int64_t first = 0;       // of a slice
  int64_t row_stride = 0;  // of a slice: `in` of the whole; 0: this is whole rows of it

  bool nested() const { return nested_absmax.defined(); }
  // Elements of the whole from row to row.
  int64_t whole_in() const { return row_stride == 0 ? shape.dim(1) : row_stride; }
  int64_t first_block() const { return first / block_size; }
  int64_t blocks() const;  // entries of absmax
  int64_t first_group() const { return first_block() / kNestedBlock; }
  int64_t groups() const;  // entries of nested_absmax, when nested
  // Bytes of codes, scales and nested scales (the shared 256-entry map not counted).
  int64_t bytes() const;
};

// The weight of a linear layer, logical shape (out, in) either way.
using Weight = std::variant<Tensor, QuantizedTensor>;

const Shape& shape_of(const Weight& weight);
bool is_quantized(const Weight& weight);

}  // namespace rankwise
