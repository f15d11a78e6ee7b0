// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/block_product.h"

namespace rankwise::cpu {
namespace {

// kRowTile rows by kVectors vectors of C stay in registers over the whole of k.
template <int kVectors, bool kAdd>
inline void multiply_tile(const OutputBlock& c, const LeftBlock& a, const RightBlock& b,
                          int64_t k) {
  FloatVector sum[kRowTile][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRowTile; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const float* from = c.data + i * c.row_stride + v * kLanes;
      sum[i][v] = kAdd ? load_vector(from) : FloatVector{};
    }
  }
  const float* left = a.data;
  const float* right = b.data;
  for (int64_t p = 0; p < k; ++p) {
    FloatVector row[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) row[v] = load_vector(right + v * b.vector_stride);
#pragma GCC unroll 8
    for (int i = 0; i < kRowTile; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[i][v] += left[i * a.row_stride] * row[v];
    }
    left += a.column_stride;
    right += b.row_stride;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRowTile; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      store_vector(c.data + i * c.row_stride + v * kLanes, sum[i][v]);
    }
  }
}

template <bool kAdd>
void multiply_block(OutputBlock c, LeftBlock a, RightBlock b, BlockExtent extent) {
  const int64_t vectors = extent.n / kLanes;
  for (int64_t i = 0; i < extent.m; i += kRowTile) {
    const LeftBlock rows{a.data + i * a.row_stride, a.row_stride, a.column_stride};
    for (int64_t v = 0; v < vectors; v += 2) {
      const OutputBlock out{c.data + i * c.row_stride + v * kLanes, c.row_stride};
      const RightBlock columns{b.data + v * b.vector_stride, b.vector_stride, b.row_stride};
      if (v + 2 <= vectors) {
        multiply_tile<2, kAdd>(out, rows, columns, extent.k);
      } else {
        multiply_tile<1, kAdd>(out, rows, columns, extent.k);
      }
    }
  }
}

}  // namespace

void multiply(OutputBlock c, LeftBlock a, RightBlock b, BlockExtent extent) {
  multiply_block<false>(c, a, b, extent);
}

void multiply_add(OutputBlock c, LeftBlock a, RightBlock b, BlockExtent extent) {
  multiply_block<true>(c, a, b, extent);
}

}  // namespace rankwise::cpu
