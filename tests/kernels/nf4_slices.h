// SPDX-License-Identifier: Apache-2.0
// Slices of matrices as ranks of the tensor axis hold them, for the tests of both backends.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/quantize.h"
#include "tests/support/kernel_harness.h"
#include "tests/support/slice_nf4.h"

namespace rankwise::testing {

// Rows that divide into blocks of 64 and rows that do not, odd widths, several groups of 256
// blocks.
inline const Shape kSlicedShapes[] = {{64, 172}, {172, 64},   {43, 43},
                                      {96, 64},  {128, 2048}, {8, 24}};

// `part` of `parts` nearly equal ranges of dimension `dim`.
inline MatrixSlice slice_of(const Shape& whole, int dim, int64_t part, int64_t parts) {
  MatrixSlice slice = MatrixSlice::all(whole);
  (dim == 0 ? slice.row_begin : slice.column_begin) = whole.dim(dim) * part / parts;
  (dim == 0 ? slice.row_end : slice.column_end) = whole.dim(dim) * (part + 1) / parts;
  return slice;
}

// Every slice of a split of `whole` into 2, 3 and 4 along either dimension.
inline std::vector<MatrixSlice> slices_of(const Shape& whole) {
  std::vector<MatrixSlice> slices;
  for (const int dim : {0, 1}) {
    for (int64_t parts = 2; parts <= 4; ++parts) {
      for (int64_t part = 0; part < parts; ++part) {
        slices.push_back(slice_of(whole, dim, part, parts));
      }
    }
  }
  return slices;
}

inline std::string description_of(const MatrixSlice& slice) {
  return fmt::format("{} rows [{}, {}) columns [{}, {})", to_string(slice.whole), slice.row_begin,
                     slice.row_end, slice.column_begin, slice.column_end);
}

inline Tensor copy_of(const Tensor& x, const MatrixSlice& slice, GuardedMemory& memory) {
  const Tensor out = memory.poisoned(slice.shape());
  const int64_t width = out.dim(1);
  for (int64_t row = 0; row < out.dim(0); ++row) {
    std::copy_n(x.data<float>() + slice.first() + row * slice.in(), width,
                out.data<float>() + row * width);
  }
  return out;
}

// The same codes and scales between guard zones.
inline QuantizedTensor guarded(QuantizedTensor q, GuardedMemory& memory) {
  for (Tensor* part : {&q.codes, &q.absmax, &q.nested_absmax, &q.nested_map}) {
    if (part->defined()) *part = memory.copy_of(*part);
  }
  return q;
}

// Memory for the whole matrix and its slices, quantised in one go.
struct WholeNf4 {
  WholeNf4(const Shape& shape, bool double_quant)
      : w(memory.normal(shape, 0.05f)),
        q(allocate_nf4(MatrixSlice::all(shape), double_quant, DType::kBF16, arena, "whole")) {
    quantize_nf4(q, w, cpu);
  }
  QuantizedTensor slice(const MatrixSlice& part) {
    return guarded(testing::slice_nf4(q, part, arena, "slices"), memory);
  }
  Tensor decoded(const QuantizedTensor& coded) {
    const Tensor out = memory.poisoned(coded.shape);
    dequantize(out, coded, cpu);
    return out;
  }
  // fp32 scales of all blocks of the whole.
  std::vector<float> scales() {
    const int64_t blocks = (w.numel() + kNf4Block - 1) / kNf4Block;
    const Tensor codes = memory.poisoned(DType::kU8, {(w.numel() + 1) / 2});
    const Tensor all = memory.poisoned({blocks});
    quantize_nf4_blocks(codes, all, w.reshaped({w.numel()}), cpu);
    return {all.data<float>(), all.data<float>() + blocks};
  }

  GuardedMemory memory;
  Arena arena;
  Stream cpu;
  Tensor w;
  QuantizedTensor q;
};

}  // namespace rankwise::testing
