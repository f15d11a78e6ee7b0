// SPDX-License-Identifier: Apache-2.0
// MatrixSlice: a rectangle of a matrix, as one rank of the tensor axis holds it.
#pragma once

#include <cstdint>

#include "runtime/shape.h"

namespace rankwise {

struct MatrixSlice {
  Shape whole;  // (out, in)
  int64_t row_begin = 0, row_end = 0;
  int64_t column_begin = 0, column_end = 0;

  static MatrixSlice all(const Shape& whole) { return {whole, 0, whole.dim(0), 0, whole.dim(1)}; }

  Shape shape() const { return {row_end - row_begin, column_end - column_begin}; }
  int64_t in() const { return whole.dim(1); }
  // Index of the first element in the flattened whole.
  int64_t first() const { return row_begin * in() + column_begin; }
  bool is_whole() const { return shape() == whole; }
  // Its elements are neighbours in the flattened whole.
  bool is_contiguous() const { return column_begin == 0 && column_end == in(); }
};

}  // namespace rankwise
