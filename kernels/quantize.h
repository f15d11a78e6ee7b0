// SPDX-License-Identifier: Apache-2.0
// NF4 quantisation with optional double quantisation of the scales, bit-compatible with
// bitsandbytes.
#pragma once

#include <span>

#include "runtime/arena.h"
#include "runtime/matrix_slice.h"
#include "runtime/quantized_tensor.h"
#include "runtime/stream.h"

namespace rankwise {

inline constexpr int64_t kNf4Block = 64;
inline constexpr uint8_t kNf4TwoZeros = 0x77;  // packed codes of the value 0

// The 16 values and 15 decision thresholds (midpoints; a tie takes the lower code).
std::span<const float, 16> nf4_values();
std::span<const float, 15> nf4_thresholds();
// The 256 sorted values of the signed 8-bit dynamic map: [0] -0.99296875, [127] 0, [255] 1.
std::span<const float, 256> signed_dynamic_map();

// The offset of double quantisation: the mean in fp32, of a sum in double from the first scale on.
float mean_scale(std::span<const float> scales);

// Allocates codes and scales of a slice of a matrix in the arena under `purpose`.
QuantizedTensor allocate_nf4(const MatrixSlice& slice, bool double_quant, DType source_dtype,
                             Arena& arena, std::string_view purpose);

// w (out, in) F32 -> out. Per block: scale = max |w|, v = w * (1 / scale), code by threshold
// search; an all-zero block gets scale 0 and codes of 0.0. Double quantisation: offset =
// mean(scale) in fp32, (scale - offset) coded in blocks of 256 with the signed dynamic map. Sets
// out.nested_offset. `out` must be a whole matrix: ranks that hold slices use the two steps below.
void quantize_nf4(QuantizedTensor& out, const Tensor& w, Stream& stream);

// Codes and fp32 scales of w (n) F32, blocks of kNf4Block from its first element on: codes U8
// (ceil(n / 2)), scales F32 (ceil(n / kNf4Block)).
void quantize_nf4_blocks(const Tensor& codes, const Tensor& scales, const Tensor& w,
                         Stream& stream);
// Sets the scales of `out`, a slice, from those of all blocks of the whole, which are in host
// memory whatever the device of `out`.
void set_nf4_scales(QuantizedTensor& out, std::span<const float> whole_scales, Stream& stream);

// w (out, in) F32, or on CUDA BF16 (rounded once, to nearest even), whose rows may be strided
// there, = value[code] * scale, in fp32.
void dequantize(const Tensor& w, const QuantizedTensor& q, Stream& stream);
// Rows [begin, end) only: w (end - begin, in).
void dequantize_rows(const Tensor& w, const QuantizedTensor& q, int64_t begin, int64_t end,
                     Stream& stream);

}  // namespace rankwise
