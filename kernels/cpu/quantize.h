// SPDX-License-Identifier: Apache-2.0
// CPU NF4 quantisation and its inverse.
#pragma once

#include <cstdint>

#include "kernels/quantize.h"

namespace rankwise::cpu {

void quantize_nf4(QuantizedTensor& out, const Tensor& w, Stream& stream);
void quantize_nf4_blocks(const Tensor& codes, const Tensor& scales, const Tensor& w);
void set_nf4_scales(QuantizedTensor& out, std::span<const float> scales);

// w (end - begin, in) = rows [begin, end) of q; with row_factors (out of q), the scales of row r
// are first multiplied with row_factors[r].
void dequantize_rows(float* w, const QuantizedTensor& q, int64_t begin, int64_t end,
                     const float* row_factors = nullptr);

}  // namespace rankwise::cpu
