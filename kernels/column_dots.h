// SPDX-License-Identifier: Apache-2.0
// Sums over tokens of products of a layer's outputs and their gradients: what the gradient of a
// factor on each output needs.
#pragma once

#include <string_view>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// Where such sums go: with s[n] = sum_t dy[t][n] * (y[t][n] - bias[n]), dots (N) F32 = s, or with m
// dots += s / m, nothing where m is 0. That is the gradient of m when y - bias = m * z. The order
// of summation is fixed.
struct ColumnDots {
  Tensor dots;
  Tensor bias = {};  // (N) F32; undefined: zeros
  Tensor m = {};     // (N) F32; may be undefined

  bool defined() const { return dots.defined(); }
};

// The sums for y - minus in place of y. dy, y, minus (T, N), F32, or BF16 on CUDA, rows may be
// strided; minus undefined: zeros. Nothing when `to` is undefined.
void column_dots(const ColumnDots& to, const Tensor& dy, const Tensor& y, const Tensor& minus,
                 Stream& stream);

// For operations that form such sums on the way: aborts when defined with any other width.
void check_column_dots(std::string_view op, const ColumnDots& to, int64_t width);

}  // namespace rankwise
