// SPDX-License-Identifier: Apache-2.0
// Products of small packed blocks that lie in cache, for operations whose blocks are too small to
// pay for a BLAS call.
#pragma once

#include <cstdint>

#include "kernels/cpu/vector_math.h"

namespace rankwise::cpu {

// Rows of the output that one register tile holds: two vectors of each and the operands just fit
// the registers. Divides kLanes.
inline constexpr int64_t kRowTile = kLanes == 16 ? 8 : 4;

// a(i, p) = data[i * row_stride + p * column_stride].
struct LeftBlock {
  const float* data;
  int64_t row_stride;
  int64_t column_stride;
};

// b(p, j) = data[j / kLanes * vector_stride + p * row_stride + j % kLanes].
struct RightBlock {
  const float* data;
  int64_t vector_stride;
  int64_t row_stride;
};

// c(i, j) = data[i * row_stride + j].
struct OutputBlock {
  float* data;
  int64_t row_stride;
};

// m is a multiple of kRowTile, n of kLanes; k is free.
struct BlockExtent {
  int64_t m;
  int64_t n;
  int64_t k;
};

void multiply(OutputBlock c, LeftBlock a, RightBlock b, BlockExtent extent);      // C = A B
void multiply_add(OutputBlock c, LeftBlock a, RightBlock b, BlockExtent extent);  // C += A B

constexpr int64_t round_down(int64_t value, int64_t multiple) {
  return value / multiple * multiple;
}
constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return round_down(value + multiple - 1, multiple);
}

}  // namespace rankwise::cpu
