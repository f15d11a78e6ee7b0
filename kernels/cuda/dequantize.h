// SPDX-License-Identifier: Apache-2.0
// Weights of any storage written as dense rows into memory that an operation chose (scratch).
#pragma once

#include "runtime/quantized_tensor.h"
#include "runtime/stream.h"

namespace rankwise::cuda {

// Rows [begin, end) of q: element (r, c) goes to out[(r - begin) * row_stride + c], out being of
// `dtype` (F32, or BF16 rounded once to nearest even). Bit-identical to the CPU.
void dequantize_rows(void* out, DType dtype, int64_t row_stride, const QuantizedTensor& q,
                     int64_t begin, int64_t end, Stream& stream);

// The same for a weight of any kind, as a whole: NF4, or dense F32 or BF16 (copied or rounded).
// row_factors (out of the weight) F32: row r is multiplied with row_factors[r] before the rounding,
// NF4 by way of its scales, as on the CPU; null: ones.
void expand_weight(void* out, DType dtype, int64_t row_stride, const Weight& weight, Stream& stream,
                   const float* row_factors = nullptr);

}  // namespace rankwise::cuda
