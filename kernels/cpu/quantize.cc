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
    std::fill(packed, packed + (count + 1) / 2, kNf4TwoZeros);
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

// Codes and scales of x (numel), in blocks of `block_size` from its first element on.
void encode(uint8_t* codes, float* scales, const float* x, int64_t numel, int64_t block_size) {
  const int64_t blocks = (numel + block_size - 1) / block_size;
#pragma omp parallel for schedule(static) if (numel > kParallelElements)
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = b * block_size;
    const int64_t count = std::min(block_size, numel - begin);
    scales[b] = encode_block(codes + begin / 2, x + begin, count);
  }
}

// The fp32 scale of any block of the whole. Reads the addresses once, ahead of the loop over
// blocks.
class BlockScales {
 public:
  explicit BlockScales(const QuantizedTensor& q)
      : first_block_(q.first_block()), first_group_(q.first_group()) {
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
    const int64_t own = block - first_block_;
    if (scales_ != nullptr) return scales_[own];
    // bitsandbytes rounds the product before it adds the offset; volatile keeps the compiler from
    // fusing the two operations into one rounding.
    const volatile float product =
        map_[codes_[own]] * group_scales_[block / QuantizedTensor::kNestedBlock - first_group_];
    return product + offset_;
  }

 private:
  int64_t first_block_;
  int64_t first_group_;
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

// Elements [begin, end) in the order of the codes, all in one block.
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
  const auto blocks = static_cast<size_t>(out.blocks());
  float* scales = out.nested() ? static_cast<float*>(stream.scratch(blocks * sizeof(float)))
                               : out.absmax.data<float>();
  encode(out.codes.data<uint8_t>(), scales, w.data<float>(), w.numel(), out.block_size);
  if (out.nested()) set_nf4_scales(out, {scales, blocks});
}

void quantize_nf4_blocks(const Tensor& codes, const Tensor& scales, const Tensor& w) {
  encode(codes.data<uint8_t>(), scales.data<float>(), w.data<float>(), w.numel(), kNf4Block);
}

void set_nf4_scales(QuantizedTensor& out, std::span<const float> scales) {
  const int64_t own_begin = out.first_block(), own_end = own_begin + out.blocks();
  if (!out.nested()) {
    std::copy_n(scales.data() + own_begin, out.blocks(), out.absmax.data<float>());
    return;
  }
  const std::span<const float, 256> map = signed_dynamic_map();
  std::copy(map.begin(), map.end(), out.nested_map.data<float>());
  const float offset = out.nested_offset = mean_scale(scales);
  const auto total = static_cast<int64_t>(scales.size());
  const int64_t first_group = out.first_group(), groups = out.groups();
  uint8_t* codes = out.absmax.data<uint8_t>();
  // A group has the scale of all its blocks, also of those outside the slice.
#pragma omp parallel for schedule(static) if (own_end - own_begin > kParallelElements)
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = (first_group + g) * QuantizedTensor::kNestedBlock;
    const int64_t end = std::min(begin + QuantizedTensor::kNestedBlock, total);
    float largest = 0.0f;
    for (int64_t b = begin; b < end; ++b) largest = std::max(largest, std::abs(scales[b] - offset));
    const float inverse = largest < FLT_MIN ? 0.0f : 1.0f / largest;
    for (int64_t b = std::max(begin, own_begin); b < std::min(end, own_end); ++b) {
      codes[b - own_begin] = nearest_entry(map, (scales[b] - offset) * inverse);
    }
    out.nested_absmax.data<float>()[g] = largest;
  }
}

void dequantize_rows(float* w, const QuantizedTensor& q, int64_t begin, int64_t end,
                     const float* row_factors) {
  const int64_t width = q.shape.dim(1), block_size = q.block_size, elements = (end - begin) * width;
  const uint8_t* codes = q.codes.data<uint8_t>();
  const BlockScales scales(q);
  const float* values = nf4_values().data();
  // Of the elements [from, to) of the slice, which lie `shift` later and side by side in the whole,
  // those in block b of the whole. By value, so that threads keep their copies in registers.
  const auto decode = [=](int64_t b, int64_t from, int64_t to, int64_t shift, float factor = 1.0f) {
    from = std::max(from, b * block_size - shift);
    to = std::min(to, (b + 1) * block_size - shift);
    decode_range(w + (from - begin * width), codes, from, to, values, scales[b] * factor);
  };
  if (q.whole_in() == width && row_factors == nullptr) {
    const int64_t from = begin * width, to = end * width;
    const int64_t last = (q.first + to + block_size - 1) / block_size;
#pragma omp parallel for schedule(static) firstprivate(decode) if (elements > kParallelElements)
    for (int64_t b = (q.first + from) / block_size; b < last; ++b) decode(b, from, to, q.first);
    return;
  }
#pragma omp parallel for schedule(static) firstprivate(decode) if (elements > kParallelElements)
  for (int64_t row = begin; row < end; ++row) {
    const int64_t from = row * width, to = from + width;
    const int64_t shift = q.first + row * q.whole_in() - from;
    const float factor = row_factors == nullptr ? 1.0f : row_factors[row];
    int64_t b = (shift + from) / block_size;
    for (; b * block_size < shift + to; ++b) decode(b, from, to, shift, factor);
  }
}

}  // namespace rankwise::cpu
