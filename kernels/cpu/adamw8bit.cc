// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/adamw8bit.h"

#include <cfloat>
#include <cmath>

#include "kernels/cpu/work_split.h"
#include "kernels/dynamic_map.h"

namespace rankwise::cpu {
namespace {

using Tables = DynamicMapTables<int32_t>;  // as wide as a lane, so that lookups become gathers
constexpr Tables kSigned = dynamic_map_tables<int32_t>(true);
constexpr Tables kUnsigned = dynamic_map_tables<int32_t>(false);

int32_t level_of(const Tables& tables, float magnitude) {
  const uint32_t bucket =
      std::max(std::bit_cast<uint32_t>(magnitude) >> Tables::kShift, Tables::kLowest);
  const int32_t level = tables.first[bucket - Tables::kLowest];
  return level + (magnitude > tables.threshold[level] ? 1 : 0);
}

// The elements [begin, begin + count) of a tensor, which share one scale of each moment.
struct Block {
  float* p;
  const float* g;
  uint8_t* m_codes;
  uint8_t* v_codes;
  float* m_absmax;
  float* v_absmax;
  int64_t count;
};

// From the bits of the largest magnitude: they compare like the numbers, and their maximum
// vectorises.
float storable_absmax(uint32_t largest) {
  const auto absmax = std::bit_cast<float>(largest);
  return absmax < FLT_MIN ? 0.0f : absmax;
}

void update(const Block& block, const AdamWFactors& f) {
  // In variables of their own: for all that compilers know, codes are written over the block's.
  const auto [p, g, m_codes, v_codes, m_absmax, v_absmax, count] = block;
  const float m_scale = *m_absmax;
  const float v_scale = *v_absmax;
  float m[kAdamW8bitBlock];
  float v[kAdamW8bitBlock];
  uint32_t m_largest = 0;
  uint32_t v_largest = 0;
#pragma omp simd reduction(max : m_largest, v_largest)
  for (int64_t i = 0; i < count; ++i) {
    const float grad = g[i] * f.gradient_scale;
    const float mean = f.beta1 * (kSigned.entry[m_codes[i]] * m_scale) + f.fresh1 * grad;
    const float square = f.beta2 * (kUnsigned.entry[v_codes[i]] * v_scale) + f.fresh2 * grad * grad;
    const bool finite = std::abs(mean) <= FLT_MAX && square <= FLT_MAX;
    const float weight =
        p[i] * f.keep - f.step_size * mean / (std::sqrt(square) * f.inv_root2 + f.eps);
    p[i] = finite ? weight : p[i];
    m[i] = finite ? mean : 0.0f;
    v[i] = finite ? square : 0.0f;
    m_largest = std::max(m_largest, std::bit_cast<uint32_t>(std::abs(m[i])));
    v_largest = std::max(v_largest, std::bit_cast<uint32_t>(v[i]));
  }
  *m_absmax = storable_absmax(m_largest);
  *v_absmax = storable_absmax(v_largest);
  const float m_inverse = *m_absmax == 0.0f ? 0.0f : 1.0f / *m_absmax;
  const float v_inverse = *v_absmax == 0.0f ? 0.0f : 1.0f / *v_absmax;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const int32_t m_level = level_of(kSigned, std::abs(m[i] * m_inverse));
    const int32_t below = kSignedZero - std::min(std::max(m_level, 1), kSignedZero);
    m_codes[i] = static_cast<uint8_t>(m[i] < 0.0f ? below : kSignedZero + m_level);
    v_codes[i] = static_cast<uint8_t>(level_of(kUnsigned, v[i] * v_inverse));
  }
}

}  // namespace

void adamw8bit(const AdamW8bitTensors& tensors, const AdamWFactors& factors) {
  const int64_t count = tensors.p.numel();
  const int64_t blocks = adamw8bit_blocks(count);
#pragma omp parallel for schedule(static) if (count >= kParallelElements)
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = b * kAdamW8bitBlock;
    update({tensors.p.data<float>() + begin, tensors.g.data<float>() + begin,
            tensors.m_codes.data<uint8_t>() + begin, tensors.v_codes.data<uint8_t>() + begin,
            tensors.m_absmax.data<float>() + b, tensors.v_absmax.data<float>() + b,
            std::min(kAdamW8bitBlock, count - begin)},
           factors);
  }
}

}  // namespace rankwise::cpu
