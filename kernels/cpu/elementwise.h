// SPDX-License-Identifier: Apache-2.0
// CPU backend of the small element-wise operations and reductions.
#pragma once

#include "kernels/mask_place.h"
#include "runtime/rng.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise::cpu {

void fill(const Tensor& x, float value);
void copy(const Tensor& y, const Tensor& x);
void add(const Tensor& y, const Tensor& x);
void scale(const Tensor& x, float factor);
void add_bias(const Tensor& y, const Tensor& bias);
void bias_backward(const Tensor& dbias, const Tensor& dy, Stream& stream);
void sum_of_squares(const Tensor& sum, const Tensor& x);
void dropout(const Tensor& y, const Tensor& x, float p, const Rng& rng, const MaskPlace& place);
void fill_random_bytes(const Tensor& x, const Rng& rng);

}  // namespace rankwise::cpu
