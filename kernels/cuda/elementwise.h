// SPDX-License-Identifier: Apache-2.0
// CUDA backend of the small element-wise operations and reductions.
#pragma once

#include <span>

#include "kernels/mask_place.h"
#include "runtime/rng.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise::cuda {

// elementwise.cu
void fill(const Tensor& x, float value, Stream& stream);
void copy(const Tensor& y, const Tensor& x, Stream& stream);
// Rows may be strided and the types equal.
void cast(const Tensor& y, const Tensor& x, Stream& stream);
void add(const Tensor& y, const Tensor& x, Stream& stream);
void scale(const Tensor& x, float factor, Stream& stream);
void add_bias(const Tensor& y, const Tensor& bias, Stream& stream);
void dropout(const Tensor& y, const Tensor& x, float p, const Rng& rng, const MaskPlace& place,
             Stream& stream);
void fill_normal(const Tensor& x, float mean, float stddev, const Rng& rng, Stream& stream);
void fill_random_bytes(const Tensor& x, const Rng& rng, Stream& stream);

// reductions.cu: with scratch memory.
void bias_backward(const Tensor& dbias, const Tensor& dy, Stream& stream);
void sum_of_squares(const Tensor& sum, std::span<const Tensor> xs, Stream& stream);
// out (width) += the rows of partial (chunks, width), in their order; without scratch memory.
void add_chunks(float* out, const float* partial, int64_t chunks, int64_t width, Stream& stream);

}  // namespace rankwise::cuda
