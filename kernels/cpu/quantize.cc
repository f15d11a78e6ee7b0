// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/work_split.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace rankwise::cpu {
namespace {

constexpr int64_t kCodesAtOnce = 64;
constexpr uint8_t kTwoZeros = 0x77;  // code 7 is the value 0, in both nibbles

// Largest magnitude. Magnitudes compare like their bit patterns, which vectorises, and a NaN wins.
float absolute_maximum(const float* x, int64_t count) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  }
  return std::bit_cast<float>(largest);
}

// Packed codes of kCodesAtOnce elements: each code is the number of thresholds below the normalised
// value. Vector types, because compilers do not vectorise the counting by themselves.
void encode_64(uint8_t* packed, const float* x, float inverse_scale) {
  const std::span<const float, 15> thresholds = nf4_thresholds();
  int32_t code[kCodesAtOnce];
  for (int64_t i = 0; i < kCodesAtOnce; i += kLanes) {
    const FloatVector value = load_vector(x + i) * inverse_scale;
    IntVector count = {};
    for (const float threshold : thresholds) count -= value > threshold;  // a true lane is -1
    std::memcpy(code + i, &count, sizeof(count));
  }
  for (int64_t i = 0; i < kCodesAtOnce; i += 2) {
    packed[i / 2] = static_cast<uint8_t>(code[i] << 4 | code[i + 1]);
  }
}

// Writes the packed codes of one block and returns its scale. A scale that has no finite reciprocal
// counts as 0.
float encode_block(uint8_t* packed, const float* x, int64_t count) {
  const float scale = absolute_maximum(x, count);
  if (scale < FLT_MIN) {
    std::fill(packed, packed + (count + 1) / 2, kTwoZeros);
    return 0.0f;
  }
  const float inverse_scale = 1.0f / scale;
  int64_t done = 0;
  for (; done + kCodesAtOnce <= count; done += kCodesAtOnce) {
    encode_64(packed + done / 2, x + done, inverse_scale);
  }
  if (done < count) {  // the element that pads an odd tail gets the code of 0
    float padded[kCodesAtOnce] = {};
    uint8_t padded_codes[kCodesAtOnce / 2];
    std::copy(x + done, x + count, padded);
    encode_64(padded_codes, padded, inverse_scale);
    std::copy_n(padded_codes, (count - done + 1) / 2, packed + done / 2);
  }
  return scale;
}

// Index of the entry nearest to x; a tie goes to the even index, which is where the binary search
// of bitsandbytes (from 127, steps 64 ... 1) ends.
uint8_t nearest_entry(std::span<const float, 256> map, float x) {
  const auto above = std::lower_bound(map.begin(), map.end(), x);
  if (above == map.begin()) return 0;
  if (above == map.end()) return 255;
  const auto high = static_cast<int>(above - map.begin());
  const int low = high - 1;
  const float middle = (map[low] + map[high]) * 0.5f;
  const bool take_high = x > middle || (x == middle && high % 2 == 0);
  return static_cast<uint8_t>(take_high ? high : low);
}

void quantize_scales(QuantizedTensor& out, const float* scales) {
  const std::span<const float, 256> map = signed_dynamic_map();
  std::copy(map.begin(), map.end(), out.nested_map.data<float>());
  const int64_t blocks = out.blocks();
  out.nested_offset = mean_scale({scales, static_cast<size_t>(blocks)});

  uint8_t* codes = out.absmax.data<uint8_t>();
  for (int64_t begin = 0; begin < blocks; begin += QuantizedTensor::kNestedBlock) {
    const int64_t end = std::min(begin + QuantizedTensor::kNestedBlock, blocks);
    float largest = 0.0f;
    for (int64_t b = begin; b < end; ++b) {
      largest = std::max(largest, std::abs(scales[b] - out.nested_offset));
    }
    const float inverse = largest < FLT_MIN ? 0.0f : 1.0f / largest;
    for (int64_t b = begin; b < end; ++b) {
      codes[b] = nearest_entry(map, (scales[b] - out.nested_offset) * inverse);
    }
    out.nested_absmax.data<float>()[begin / QuantizedTensor::kNestedBlock] = largest;
  }
}

// The fp32 scale of any block. Reads the tensors' addresses once, ahead of the loop over blocks.
class BlockScales {
 public:
  explicit BlockScales(const QuantizedTensor& q) {
    if (q.nested()) {
      codes_ = q.absmax.data<uint8_t>();
      map_ = q.nested_map.data<float>();
      group_scales_ = q.nested_absmax.data<float>();
      offset_ = q.nested_offset;
    } else {
      scales_ = q.absmax.data<float>();
    }
  }

  float operator[](int64_t block) const {
    if (scales_ != nullptr) return scales_[block];
    // bitsandbytes rounds the product before it adds the offset; volatile keeps the compiler from
    // fusing the two operations into one rounding.
    const volatile float product =
        map_[codes_[block]] * group_scales_[block / QuantizedTensor::kNestedBlock];
    return product + offset_;
  }

 private:
  const float* scales_ = nullptr;
  const uint8_t* codes_ = nullptr;
  const float* map_ = nullptr;
  const float* group_scales_ = nullptr;
  float offset_ = 0.0f;
};

#if defined(__AVX512F__)

// The 16 values times one scale, looked up by code.
class ScaledValues {
 public:
  ScaledValues(const float* values, float scale)
      : values_(_mm512_mul_ps(_mm512_loadu_ps(values), _mm512_set1_ps(scale))) {}

  // 32 values from 16 bytes. The permutation reads only the low 4 bits of each index, so that the
  // neighbouring nibble need not be masked away.
  void decode_32(float* out, const uint8_t* packed) const {
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
    const __m128i high = _mm_srli_epi16(low, 4);
    store(out, _mm_unpacklo_epi8(high, low));
    store(out + 16, _mm_unpackhi_epi8(high, low));
  }

 private:
  // The forms with a full zeroing mask are the plain instructions; the plain intrinsics make GCC 12
  // warn of an uninitialised operand inside its own header.
  void store(float* out, __m128i codes) const {
    constexpr __mmask16 kAll = 0xffff;
    const __m512i index = _mm512_maskz_cvtepu8_epi32(kAll, codes);
    _mm512_storeu_ps(out, _mm512_maskz_permutexvar_ps(kAll, index, values_));
  }

  __m512 values_;
};

#elif defined(__AVX2__)

// The 16 values times one scale, looked up by code.
class ScaledValues {
 public:
  ScaledValues(const float* values, float scale)
      : low_(_mm256_mul_ps(_mm256_loadu_ps(values), _mm256_set1_ps(scale))),
        high_(_mm256_mul_ps(_mm256_loadu_ps(values + 8), _mm256_set1_ps(scale))) {}

  // 32 values from 16 bytes. Bits above the low 4 of an index are ignored.
  void decode_32(float* out, const uint8_t* packed) const {
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
    const __m128i high = _mm_srli_epi16(low, 4);
    const __m128i first = _mm_unpacklo_epi8(high, low);
    const __m128i second = _mm_unpackhi_epi8(high, low);
    store(out, first);
    store(out + 8, _mm_srli_si128(first, 8));
    store(out + 16, second);
    store(out + 24, _mm_srli_si128(second, 8));
  }

 private:
  void store(float* out, __m128i codes) const {
    const __m256i index = _mm256_cvtepu8_epi32(codes);
    const __m256 upper_half = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // bit 3 as sign
    _mm256_storeu_ps(out, _mm256_blendv_ps(_mm256_permutevar8x32_ps(low_, index),
                                           _mm256_permutevar8x32_ps(high_, index), upper_half));
  }

  __m256 low_;
  __m256 high_;
};

#else

// The 16 values times one scale, looked up by code.
class ScaledValues {
 public:
  ScaledValues(const float* values, float scale) {
    for (size_t i = 0; i < values_.size(); ++i) values_[i] = values[i] * scale;
  }

  void decode_32(float* out, const uint8_t* packed) const {
    for (int i = 0; i < 16; ++i) {
      out[2 * i] = values_[packed[i] >> 4];
      out[2 * i + 1] = values_[packed[i] & 0x0f];
    }
  }

 private:
  std::array<float, 16> values_;
};

#endif

// Elements [begin, end) of the flattened matrix, all in one block.
void decode_range(float* out, const uint8_t* packed, uint64_t begin, uint64_t end,
                  const float* values, float scale) {
  const auto decode_one = [&](uint64_t element) {
    const uint8_t pair = packed[element / 2];
    return values[element % 2 == 0 ? pair >> 4 : pair & 0x0f] * scale;
  };
  const ScaledValues scaled(values, scale);
  uint64_t element = begin;
  if (element % 2 != 0 && element < end) *out++ = decode_one(element++);
  for (; element + 32 <= end; element += 32, out += 32) scaled.decode_32(out, packed + element / 2);
  for (; element < end; ++element) *out++ = decode_one(element);
}

}  // namespace

void quantize_nf4(QuantizedTensor& out, const Tensor& w, Stream& stream) {
  const int64_t numel = w.numel();
  const int64_t block_size = out.block_size;
  const int64_t blocks = out.blocks();
  const float* values = w.data<float>();
  uint8_t* codes = out.codes.data<uint8_t>();
  float* scales =
      out.nested()
          ? static_cast<float*>(stream.scratch(static_cast<size_t>(blocks) * sizeof(float)))
          : out.absmax.data<float>();
#pragma omp parallel for schedule(static) if (numel > kParallelElements)
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = b * block_size;
    const int64_t count = std::min(block_size, numel - begin);
    scales[b] = encode_block(codes + begin / 2, values + begin, count);
  }
  if (out.nested()) quantize_scales(out, scales);
}

void dequantize_rows(float* w, const QuantizedTensor& q, int64_t begin, int64_t end) {
  const int64_t first = begin * q.shape.dim(1);
  const int64_t last = end * q.shape.dim(1);
  const int64_t block_size = q.block_size;
  const int64_t first_block = first / block_size;
  const int64_t last_block = (last + block_size - 1) / block_size;
  const uint8_t* codes = q.codes.data<uint8_t>();
  const BlockScales scales(q);
  const float* values = nf4_values().data();
#pragma omp parallel for schedule(static) if (last - first > kParallelElements)
  for (int64_t b = first_block; b < last_block; ++b) {
    const int64_t from = std::max(b * block_size, first);
    const int64_t to = std::min((b + 1) * block_size, last);
    decode_range(w + (from - first), codes, from, to, values, scales[b]);
  }
}

}  // namespace rankwise::cpu
