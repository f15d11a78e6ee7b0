// SPDX-License-Identifier: Apache-2.0
// A slice cut out of a matrix that is quantised already: what slices made in other ways must equal.
#pragma once

#include <cstring>
#include <string_view>

#include "runtime/arena.h"
#include "runtime/matrix_slice.h"
#include "runtime/packed_codes.h"
#include "runtime/quantized_tensor.h"

namespace rankwise::testing {

// On the host: the codes packed anew and the slice's part of the scales, in the arena under
// `purpose`.
inline QuantizedTensor slice_nf4(const QuantizedTensor& whole, const MatrixSlice& slice,
                                 Arena& arena, std::string_view purpose) {
  RW_ASSERT(whole.first == 0 && whole.row_stride == 0, "a slice, from element {}", whole.first);
  RW_ASSERT(slice.whole == whole.shape && !whole.codes.device().is_cuda(), "slice of {} from {}",
            to_string(slice.whole), to_string(whole.shape));
  const auto part_of = [&](const Tensor& from, int64_t first, int64_t count) {
    const Tensor part = arena.allocate(purpose, from.dtype(), {count});
    if (!arena.measuring()) {
      std::memcpy(part.raw(), from.rows(first, first + count).raw(),
                  static_cast<size_t>(part.bytes()));
    }
    return part;
  };
  QuantizedTensor out = whole;
  out.shape = slice.shape();
  out.first = slice.first();
  out.row_stride = slice.is_contiguous() ? 0 : slice.in();
  out.codes = arena.allocate(purpose, DType::kU8, {(out.shape.numel() + 1) / 2});
  out.absmax = part_of(whole.absmax, out.first_block(), out.blocks());
  if (out.nested()) {
    out.nested_absmax = part_of(whole.nested_absmax, out.first_group(), out.groups());
    out.nested_map = part_of(whole.nested_map, 0, whole.nested_map.numel());
  }
  if (arena.measuring()) return out;
  auto* codes = out.codes.data<uint8_t>();
  const int64_t rows = out.shape.dim(0), width = out.shape.dim(1);
  for (int64_t row = 0; row < rows; ++row) {
    copy_codes({codes, row * width},
               {whole.codes.data<uint8_t>(), out.first + row * out.whole_in()}, width);
  }
  pad_codes(codes, out.shape.numel());
  return out;
}

}  // namespace rankwise::testing
