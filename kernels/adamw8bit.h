// SPDX-License-Identifier: Apache-2.0
// AdamW whose moments are stored in 8 bits per element, with one scale per block of 256.
#pragma once

#include "kernels/adamw.h"

namespace rankwise {

inline constexpr int64_t kAdamW8bitBlock = 256;  // elements that share a scale
constexpr int64_t adamw8bit_blocks(int64_t numel) {
  return (numel + kAdamW8bitBlock - 1) / kAdamW8bitBlock;
}

// A parameter p and its gradient g: F32, equal shapes. The moments of element i are
// m = signed map[m_codes[i]] * m_absmax[i / 256] and v = unsigned map[v_codes[i]] * v_absmax[i /
// 256] with the maps of dynamic_map.h: codes U8 of the shape of p, absmax F32
// (adamw8bit_blocks(numel)). All zero bits are zero moments.
struct AdamW8bitTensors {
  Tensor p, g;
  Tensor m_codes, m_absmax;
  Tensor v_codes, v_absmax;
};

// The update of adamw() in fp32 on the moments that the codes stand for. The new p follows from the
// new moments before these are stored: per block absmax = max |x|, code = the entry nearest to
// x * (1 / absmax), ties as DynamicMapTables has them; a negative m never gets the code of 0 but
// its neighbour, which keeps the sign. An absmax without a finite reciprocal is stored as 0. An
// element whose new moments are not finite (gradient NaN, infinite or with an infinite square)
// keeps p and gets moments 0, so that it does not spoil its block.
void adamw8bit(std::span<const AdamW8bitTensors> tensors, float gradient_scale,
               const AdamWParams& params, Stream& stream);

}  // namespace rankwise
