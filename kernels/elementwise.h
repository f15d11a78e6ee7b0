// SPDX-License-Identifier: Apache-2.0
// Small element-wise operations and reductions: fill, copy, add, scale, bias, sums.
#pragma once

#include <span>

#include "kernels/mask_place.h"
#include "runtime/rng.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// "Activations" are F32, or BF16 on CUDA, where the rows of rank-2 tensors may be strided.

void fill(const Tensor& x, float value, Stream& stream);  // F32, or 0 for any type; contiguous
// y = x: same dtype and shape, activations or any contiguous tensors.
void copy(const Tensor& y, const Tensor& x, Stream& stream);
// y = x rounded to nearest even, or widened: between F32 and BF16, contiguous, same numel. CUDA
// only; the CPU computes in F32.
void cast(const Tensor& y, const Tensor& x, Stream& stream);
void add(const Tensor& y, const Tensor& x, Stream& stream);  // y += x, activations
void scale(const Tensor& x, float factor, Stream& stream);   // x *= factor, F32
// y (T, C) += bias (C); y activations, bias F32.
void add_bias(const Tensor& y, const Tensor& bias, Stream& stream);
// dbias (C) F32 += sum_t dy; dy activations; in a fixed order.
void bias_backward(const Tensor& dbias, const Tensor& dy, Stream& stream);

// sum (1) F64 += sum of x^2 over all tensors (F32), accumulated in fp64 in a fixed order.
void sum_of_squares(const Tensor& sum, std::span<const Tensor> xs, Stream& stream);

// Inverted dropout on activations x (T, C): y = keep(index) ? x / (1 - p) : 0 with the index that
// `place` gives and keep(j) = rng.uniform(j) >= p, whatever the row stride. The backward pass is
// the same call on the gradient. y may be x.
void dropout(const Tensor& y, const Tensor& x, float p, const Rng& rng, const MaskPlace& place,
             Stream& stream);

// Element i = mean + stddev * rng.normal(i), up to the accuracy of the device's functions; F32 or,
// on CUDA, BF16; contiguous.
void fill_normal(const Tensor& x, float mean, float stddev, const Rng& rng, Stream& stream);
// Byte i of x (U8) = low byte of rng.bits(i).
void fill_random_bytes(const Tensor& x, const Rng& rng, Stream& stream);

}  // namespace rankwise
