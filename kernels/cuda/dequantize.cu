// SPDX-License-Identifier: Apache-2.0
// w[r, c] = value[code] * scale, rounded once to the type of w; scale = nested_map[absmax] *
// nested_absmax + nested_offset, product and sum rounded separately, times the factor of row r if
// there are factors. The block of an element follows from its place in the whole matrix
// (runtime/quantized_tensor.h). Places and blocks are counted here from the start of the first
// group of blocks of which q holds the nested scale.
#include <algorithm>
#include <bit>

#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/quantize.h"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;  // one entry of the nested map per thread
constexpr int kGroup = 8;      // codes in four bytes, values in one or two 16-byte stores
constexpr int kGroupsPerThread = 4;
constexpr uint32_t kNestedBlock = QuantizedTensor::kNestedBlock;
constexpr int kTile = kThreads * kGroupsPerThread;
constexpr int kWarpGroups = 32 * kGroupsPerThread;
constexpr int kWarpShift = std::countr_zero(unsigned{kWarpGroups});

struct Values {
  float of_code[16];
};

// By block; entries before the first block of q do not exist.
struct Scales {
  const float* plain;  // or, when nested:
  const uint8_t* codes;
  const float* map;
  const float* nested;
  float offset;
};

__device__ float nested_scale(float entry, float group_scale, float offset) {
  return __fadd_rn(__fmul_rn(entry, group_scale), offset);
}

// n / divisor for n < 2^31, by one multiplication.
class Divisor {
 public:
  explicit Divisor(uint32_t divisor) {
    shift_ = static_cast<uint32_t>(std::bit_width(divisor - 1));
    const uint64_t excess = (uint64_t{1} << shift_) - divisor;
    multiplier_ = static_cast<uint32_t>((excess << 32) / divisor + 1);
  }
  __device__ uint32_t quotient(uint32_t n) const {
    return (__umulhi(n, multiplier_) + n) >> shift_;
  }

 private:
  uint32_t multiplier_;
  uint32_t shift_;
};

struct Groups {
  uint32_t count;
  Divisor by_row;
  uint64_t first;            // place of the first
  uint32_t left_out;         // of the whole matrix, between the rows of a slice of columns
  int block_shift;           // log2 of the groups in a block
  int64_t row_gap;           // elements between the rows of the output
  const float* row_factors;  // null: ones
};

__device__ void store_group(float* to, const float (&x)[kGroup]) {
  auto* packs = reinterpret_cast<float4*>(to);
  packs[0] = make_float4(x[0], x[1], x[2], x[3]);
  packs[1] = make_float4(x[4], x[5], x[6], x[7]);
}
// As one access: the compiler would take a pack of pairs apart into its elements.
__device__ void store_group(bf16* to, const float (&x)[kGroup]) {
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
    pairs[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  *reinterpret_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// The values of a group; `value` of a lane is that of code lane % 16, so that a lookup is a shuffle
// that needs only the low four bits of its index right: no masking, no bank conflicts.
__device__ void decode_group(float (&x)[kGroup], uint32_t packed, float value, float scale) {
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {  // the even element lies in the high nibble
    const uint32_t lane = packed >> (i % 2 == 0 ? 4 * i + 4 : 4 * i - 4);
    x[i] = __fmul_rn(__shfl_sync(0xffffffffu, value, static_cast<int>(lane)), scale);
  }
}

template <class T>
__device__ void store_in_row(T* out, const Groups& groups, uint32_t group,
                             const float (&x)[kGroup]) {
  if (group >= groups.count) return;
  const int64_t gaps = groups.by_row.quotient(group) * groups.row_gap;
  store_group(out + int64_t{group} * kGroup + gaps, x);
}

// Rows that are whole blocks: a warp decodes groups side by side, and each lane makes the scale of
// one of their blocks, at most 32. Past the end the last group is decoded again, not stored.
template <class T, bool kNested>
__global__ void __launch_bounds__(kThreads)
    decode_blocks(T* out, const uint32_t* codes, Scales scales,
                  const __grid_constant__ Values values, Groups groups) {
  const uint32_t lane = threadIdx.x % 32, last = groups.count - 1;
  const uint32_t begin = blockIdx.x * kTile + threadIdx.x / 32 * kWarpGroups;
  if (begin > last) return;
  uint32_t packed[kGroupsPerThread];
#pragma unroll
  for (int k = 0; k < kGroupsPerThread; ++k) {
    packed[k] = __ldcs(codes + min(begin + k * 32 + lane, last));
  }
  const int shift = min(groups.block_shift, kWarpShift);
  const uint32_t own = min(begin + min(lane << shift, kWarpGroups - 1), last);
  const uint32_t row = groups.by_row.quotient(own);
  const uint64_t place = groups.first + own + uint64_t{row} * groups.left_out;
  const uint64_t block = place >> groups.block_shift;
  float scale;
  if constexpr (kNested) {
    scale = nested_scale(__ldg(scales.map + __ldg(scales.codes + block)),
                         __ldg(scales.nested + block / kNestedBlock), scales.offset);
  } else {
    scale = __ldg(scales.plain + block);
  }
  if (groups.row_factors != nullptr) scale *= __ldg(groups.row_factors + row);
  const float value = values.of_code[lane % 16];
#pragma unroll
  for (int k = 0; k < kGroupsPerThread; ++k) {
    const uint32_t within = k * 32 + lane;
    float x[kGroup];
    decode_group(x, packed[k], value, __shfl_sync(0xffffffffu, scale, within >> shift));
    store_in_row(out, groups, begin + within, x);
  }
}

// Rows and slices that cut blocks, one tile per thread block. Past the end the last group is
// decoded again, not stored. kByRow: a slice of columns or row factors.
template <class T, bool kNested, bool kByRow>
__global__ void __launch_bounds__(kThreads)
    decode_groups(T* out, const uint32_t* codes, Scales scales,
                  const __grid_constant__ Values values, Groups groups) {
  const float value = values.of_code[threadIdx.x % 16];
  const uint32_t first = blockIdx.x * kTile + threadIdx.x;
  uint32_t packed[kGroupsPerThread];
  float scale[kGroupsPerThread];
  float factor[kGroupsPerThread];
  uint32_t scale_code[kGroupsPerThread];
#pragma unroll
  for (int k = 0; k < kGroupsPerThread; ++k) {
    const uint32_t group = min(first + k * kThreads, groups.count - 1);
    uint64_t place = groups.first + group;
    if constexpr (kByRow) {
      const uint32_t row = groups.by_row.quotient(group);
      place += uint64_t{row} * groups.left_out;
      factor[k] = groups.row_factors == nullptr ? 1.0f : __ldg(groups.row_factors + row);
    }
    const uint64_t block = place >> groups.block_shift;
    packed[k] = __ldcs(codes + group);
    if constexpr (kNested) {
      scale_code[k] = __ldg(scales.codes + block);
      scale[k] = __ldg(scales.nested + block / kNestedBlock);
    } else {
      scale[k] = __ldg(scales.plain + block);
    }
  }
  if constexpr (kNested) {
    __shared__ float map[kThreads];
    map[threadIdx.x] = scales.map[threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kGroupsPerThread; ++k) {
      scale[k] = nested_scale(map[scale_code[k]], scale[k], scales.offset);
    }
  }
#pragma unroll
  for (int k = 0; k < kGroupsPerThread; ++k) {
    if constexpr (kByRow) scale[k] *= factor[k];
    float x[kGroup];
    decode_group(x, packed[k], value, scale[k]);
    store_in_row(out, groups, first + k * kThreads, x);
  }
}

struct Elements {
  int64_t first;     // place in the whole matrix
  int64_t whole_in;  // places from row to row
  int64_t count;
  int64_t width;
  int64_t row_stride;
  int64_t block_size;
  int64_t first_code;
  const float* row_factors;  // null: ones
};

// Any width, stride, block size and address.
template <class T>
__global__ void __launch_bounds__(kThreads)
    decode_each(T* out, const uint8_t* codes, Scales scales, const __grid_constant__ Values values,
                Elements elements) {
  __shared__ float of_code[16];
  if (threadIdx.x < 16) of_code[threadIdx.x] = values.of_code[threadIdx.x];
  __syncthreads();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= elements.count) return;
  const int64_t row = i / elements.width;
  const int64_t column = i - row * elements.width;
  const int64_t block = (elements.first + row * elements.whole_in + column) / elements.block_size;
  float scale = scales.plain != nullptr
                    ? scales.plain[block]
                    : nested_scale(scales.map[scales.codes[block]],
                                   scales.nested[block / kNestedBlock], scales.offset);
  if (elements.row_factors != nullptr) scale *= elements.row_factors[row];
  const int64_t element = elements.first_code + i;
  const uint8_t pair = codes[element / 2];
  const int code = element % 2 == 0 ? pair >> 4 : pair & 15;
  out[row * elements.row_stride + column] = from_float<T>(__fmul_rn(of_code[code], scale));
}

template <class T, class W, int N>
__global__ void __launch_bounds__(kTilePacks)
    multiply_rows_kernel(Rows<T> out, Rows<const W> w, const float* row_factors, int packs) {
  const Tile tile = tile_of_thread<N>(packs);
  if (!tile.inside) return;
  const float factor = row_factors[tile.row];
  const auto from = load_pack<N>(w[tile.row] + tile.column);
  Pack<T, N> to;
#pragma unroll
  for (int i = 0; i < N; ++i) to.v[i] = from_float<T>(factor * to_float(from.v[i]));
  store_pack(out[tile.row] + tile.column, to);
}

// out = diag(row_factors) w, both (rows, width), rounded once.
template <class T, class W>
void multiply_rows(const Tensor& out, const Tensor& w, const float* row_factors, Stream& stream) {
  constexpr int kPack = std::min(kPackSize<T>, kPackSize<W>);
  with_tiles<kPack>(fit_packs(w.dim(1), kPack, out, w), w.dim(0), w.dim(1),
                    [&]<int N>(Constant<N>, int packs, unsigned blocks) {
                      multiply_rows_kernel<T, W, N><<<blocks, kTilePacks, 0, native(stream)>>>(
                          rows_of<T>(out), rows_of<const W>(w), row_factors, packs);
                    });
  check_launch("multiply_rows");
}

Values nf4_table() {
  Values values;
  for (int i = 0; i < 16; ++i) values.of_code[i] = nf4_values()[i];
  return values;
}

Scales scales_of(const QuantizedTensor& q) {
  const int64_t absent = q.first_block() % kNestedBlock;
  if (!q.nested()) return {q.absmax.data<float>() - absent, nullptr, nullptr, nullptr, 0.0f};
  return {nullptr, q.absmax.data<uint8_t>() - absent, q.nested_map.data<float>(),
          q.nested_absmax.data<float>(), q.nested_offset};
}

template <class T>
bool in_groups(const T* out, int64_t row_stride, const QuantizedTensor& q, int64_t elements) {
  return q.shape.dim(1) % kGroup == 0 && q.first % kGroup == 0 && q.whole_in() % kGroup == 0 &&
         q.whole_in() / kGroup < (int64_t{1} << 31) && q.block_size >= kGroup &&
         std::has_single_bit(static_cast<uint64_t>(q.block_size)) && is_aligned(out, 16) &&
         row_stride * static_cast<int64_t>(sizeof(T)) % 16 == 0 && is_aligned(q.codes.raw(), 4) &&
         elements / kGroup < (int64_t{1} << 31) - kTile;
}

// Of q in groups.
bool in_blocks(const QuantizedTensor& q) {
  return q.shape.dim(1) % q.block_size == 0 && q.first % q.block_size == 0 &&
         q.whole_in() % q.block_size == 0 && q.block_size * 32 >= kWarpGroups * kGroup;
}

// row_factors: from row `begin` on, or null.
template <class T>
void decode(T* out, int64_t row_stride, const QuantizedTensor& q, int64_t begin, int64_t end,
            const float* row_factors, Stream& stream) {
  const int64_t width = q.shape.dim(1);
  const int64_t first_code = begin * width;
  const int64_t first = q.first % (q.block_size * kNestedBlock) + begin * q.whole_in();
  const int64_t count = (end - begin) * width;
  const auto* codes = q.codes.data<uint8_t>();
  if (in_groups(out, row_stride, q, count)) {
    const Groups groups{static_cast<uint32_t>(count / kGroup),
                        Divisor(static_cast<uint32_t>(width / kGroup)),
                        static_cast<uint64_t>(first / kGroup),
                        static_cast<uint32_t>((q.whole_in() - width) / kGroup),
                        std::countr_zero(static_cast<uint64_t>(q.block_size / kGroup)),
                        row_stride - width,
                        row_factors};
    const auto tiles = static_cast<unsigned>(ceil_div(groups.count, kTile));
    const auto* words = reinterpret_cast<const uint32_t*>(codes) + first_code / kGroup;
    const auto kernel =
        in_blocks(q) ? (q.nested() ? decode_blocks<T, true> : decode_blocks<T, false>)
        : groups.left_out > 0 || row_factors != nullptr
            ? (q.nested() ? decode_groups<T, true, true> : decode_groups<T, false, true>)
            : (q.nested() ? decode_groups<T, true, false> : decode_groups<T, false, false>);
    kernel<<<tiles, kThreads, 0, native(stream)>>>(out, words, scales_of(q), nf4_table(), groups);
  } else {
    const Elements elements{first,      q.whole_in(), count,      width,
                            row_stride, q.block_size, first_code, row_factors};
    const auto blocks = static_cast<unsigned>(ceil_div(count, kThreads));
    decode_each<T>
        <<<blocks, kThreads, 0, native(stream)>>>(out, codes, scales_of(q), nf4_table(), elements);
  }
  check_launch("dequantize_rows");
}

}  // namespace

void dequantize_rows(void* out, DType dtype, int64_t row_stride, const QuantizedTensor& q,
                     int64_t begin, int64_t end, Stream& stream) {
  if ((end - begin) * q.shape.dim(1) == 0) return;
  for_element_type(dtype, [&]<class T>(T*) {
    decode(static_cast<T*>(out), row_stride, q, begin, end, nullptr, stream);
  });
}

void expand_weight(void* out, DType dtype, int64_t row_stride, const Weight& weight, Stream& stream,
                   const float* row_factors) {
  const Shape& shape = shape_of(weight);
  if (shape.numel() == 0) return;
  if (const auto* quantized = std::get_if<QuantizedTensor>(&weight)) {
    return for_element_type(dtype, [&]<class T>(T*) {
      decode(static_cast<T*>(out), row_stride, *quantized, 0, shape.dim(0), row_factors, stream);
    });
  }
  const Tensor wide(out, dtype, {shape.dim(0), row_stride}, stream.device());
  const Tensor to = wide.columns(0, shape.dim(1));
  const auto& dense = std::get<Tensor>(weight);
  if (row_factors == nullptr) return cast(to, dense, stream);
  for_element_type(dtype, [&]<class T>(T*) {
    for_element_type(dense.dtype(),
                     [&]<class W>(W*) { multiply_rows<T, W>(to, dense, row_factors, stream); });
  });
}

}  // namespace rankwise::cuda
