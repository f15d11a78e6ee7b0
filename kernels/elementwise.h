// SPDX-License-Identifier: Apache-2.0
// Small element-wise operations and reductions: fill, copy, add, scale, bias, sums.
#pragma once

#include <cstdint>

#include "runtime/rng.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

void fill(const Tensor& x, float value, Stream& stream);             // F32, or 0 for any type
void copy(const Tensor& y, const Tensor& x, Stream& stream);         // same dtype and numel
void add(const Tensor& y, const Tensor& x, Stream& stream);          // y += x, F32
void scale(const Tensor& x, float factor, Stream& stream);           // x *= factor, F32
void add_bias(const Tensor& y, const Tensor& bias, Stream& stream);  // y (T, C) += bias (C)
void bias_backward(const Tensor& dbias, const Tensor& dy, Stream& stream);  // dbias += sum_t dy

// sum (1) F64 += sum of x^2, accumulated in fp64 in a fixed order.
void sum_of_squares(const Tensor& sum, const Tensor& x, Stream& stream);

// Inverted dropout: y[i] = keep(first_index + i) ? x[i] / (1 - p) : 0, keep(j) = rng.uniform(j) >=
// p. The backward pass is the same call on the gradient. y may be x.
void dropout(const Tensor& y, const Tensor& x, float p, const Rng& rng, uint64_t first_index,
             Stream& stream);

}  // namespace rankwise
