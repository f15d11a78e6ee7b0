// SPDX-License-Identifier: Apache-2.0
// crosses[part][i] = sum_k (W A^T)_ik B_ik over the columns of W and the k of a part. W is decoded
// to the bf16 fragments of m16n8k16 products and never written. The order of the columns inside a
// product is free as long as both operands have the same: thread t of a quad takes 8 consecutive
// codes, one word, as the columns of two products that the layout of fragments gives it.
#include <algorithm>

#include "kernels/cuda/gram.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_norms_nf4.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/quantize.h"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = kGramThreads;
constexpr int kRows = kThreads / 32 * 16;  // of W in a thread block, 16 of them in a warp
constexpr int kBlock = kNf4Block;          // columns with one scale
constexpr int kBlockBytes = kBlock / 2;
constexpr int kSlabBlocks = 4;  // one per thread of a quad
constexpr int kSlab = kSlabBlocks * kBlock;
constexpr int kPitch = kSlab + 8;       // rows of A begin in different banks
constexpr int kLargestTiles = 8;        // of 8 ranks: what the registers of a thread can sum
constexpr int64_t kWantedBlocks = 264;  // two per multiprocessor of an H200; a constant, so that
                                        // the order of summation is the same on every GPU

struct Values {
  float of_code[16];
};

struct Problem {
  Values values;
  const uint8_t* codes;
  const float* plain_scales;  // or, when nested:
  const uint8_t* scale_codes;
  const float* map;
  const float* nested;
  float offset;
  int64_t absent;          // blocks between the start of the first group and the first block
  int64_t blocks_per_row;  // of the whole matrix
  Rows<const float> a;
  bool a_in_packs;
  const float* b;
  float* q;
  float* crosses;
  int64_t out;
  int rank;
  int blocks;  // in a row
  int64_t row_blocks;
  int64_t splits;  // of the slabs of a row
  int64_t passes;  // over W, each with other ranks
  unsigned gram_tiles;

  __host__ __device__ int64_t slabs() const { return (blocks + kSlabBlocks - 1) / kSlabBlocks; }
};

// What a thread reads of a slab, of each of its two rows: 16 codes of each block, and the scale of
// the block that is its own place in the quad.
struct Slab {
  uint2 codes[2][kSlabBlocks];
  float scale[2];
  uint32_t scale_code[2];
};

// The rows of a thread.
struct RowPair {
  const uint8_t* codes[2];
  int64_t block[2];  // of the first scale
};

template <bool kNested>
__device__ void load(Slab& slab, const Problem& problem, const RowPair& rows, int64_t index) {
  const int quad_thread = threadIdx.x % 4;
  const int first = static_cast<int>(index) * kSlabBlocks;
  const int own = min(first + quad_thread, problem.blocks - 1);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t block = rows.block[r] + own;
    if constexpr (kNested) {
      slab.scale_code[r] = __ldg(problem.scale_codes + block);
      slab.scale[r] =
          __ldg(problem.nested + (problem.absent + block) / QuantizedTensor::kNestedBlock);
    } else {
      slab.scale[r] = __ldg(problem.plain_scales + block);
    }
    const auto* from =
        reinterpret_cast<const uint2*>(rows.codes[r] + first * kBlockBytes) + quad_thread;
#pragma unroll
    for (int i = 0; i < kSlabBlocks; ++i) {
      if (first + i < problem.blocks) slab.codes[r][i] = __ldcs(from + i * (kBlockBytes / 8));
    }
  }
}

// Ranks [first, first + kCount) of a slab of A, 0 outside of A.
template <int kCount>
__device__ void load_a(bf16 (*to)[kPitch], const Problem& problem, int first, int64_t index) {
  constexpr int kPacks = kSlab / 4;
#pragma unroll
  for (int i = threadIdx.x; i < kCount * kPacks; i += kThreads) {
    const int row = i / kPacks, column = i % kPacks * 4;
    const int64_t place = index * kSlab + column;
    Pack<float, 4> x = {};
    if (first + row < problem.rank && place < int64_t{problem.blocks} * kBlock) {
      const float* from = problem.a[first + row] + place;
      if (problem.a_in_packs) {
        x = load_pack<4>(from);
      } else {
        for (int e = 0; e < 4; ++e) x.v[e] = from[e];
      }
    }
    const Pack<__nv_bfloat162, 2> pairs = {__floats2bfloat162_rn(x.v[0], x.v[1]),
                                           __floats2bfloat162_rn(x.v[2], x.v[3])};
    store_pack(reinterpret_cast<__nv_bfloat162*>(&to[row][column]), pairs);
  }
}

// Eight codes as pairs of bf16. A lane holds one of the 16 values, twice per warp: a lookup is a
// shuffle that needs only the low four bits of its index right. The even element lies in the high
// nibble.
__device__ void decode(uint32_t (&pairs)[4], uint32_t packed, float scale, float value) {
  const auto element = [&](int shift) {
    const auto lane = static_cast<int>(packed >> shift);
    return __fmul_rn(__shfl_sync(0xffffffffu, value, lane), scale);
  };
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float even = element(8 * i + 4), odd = element(8 * i);
    const __nv_bfloat162 pair = __floats2bfloat162_rn(even, odd);
    pairs[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// sum (16, 8) += the (16, 16) product of rows (low: 0 to 7, high: 8 to 15) with columns of a.
__device__ void multiply_add(float (&sum)[4], const uint32_t* low, const uint32_t* high,
                             uint32_t a0, uint32_t a1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(low[0]), "r"(high[0]), "r"(low[1]), "r"(high[1]), "r"(a0), "r"(a1));
}

// sums += the products of a slab of the warp's 16 rows with 8 * kTiles ranks.
template <int kTiles>
__device__ void multiply(float (&sums)[kTiles][4], const Slab& slab, const float (&scale)[2],
                         bf16 (*a)[kPitch], int blocks, float value) {
  const int group = threadIdx.x % 32 / 4, quad_thread = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < kSlabBlocks; ++i) {
    if (i >= blocks) break;
    const float low_scale = __shfl_sync(0xffffffffu, scale[0], i, 4);
    const float high_scale = __shfl_sync(0xffffffffu, scale[1], i, 4);
#pragma unroll
    for (int word = 0; word < 2; ++word) {
      const uint2 low_codes = slab.codes[0][i], high_codes = slab.codes[1][i];
      uint32_t low[4], high[4];
      decode(low, word == 0 ? low_codes.x : low_codes.y, low_scale, value);
      decode(high, word == 0 ? high_codes.x : high_codes.y, high_scale, value);
      const int column = i * kBlock + quad_thread * 16 + word * 8;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const uint4 columns = *reinterpret_cast<const uint4*>(&a[tile * 8 + group][column]);
        multiply_add(sums[tile], low, high, columns.x, columns.y);
        multiply_add(sums[tile], low + 2, high + 2, columns.z, columns.w);
      }
    }
  }
}

// The first gram_tiles thread blocks make q, each of the others a part of kRows rows.
template <int kTiles, bool kNested>
__global__ void __launch_bounds__(kThreads, 2)
    nf4_crosses_kernel(const __grid_constant__ Problem problem) {
  __shared__ alignas(16) bf16 a[8 * kTiles][kPitch];
  __shared__ float map[256];
  if (blockIdx.x < problem.gram_tiles) {
    return gram_tile(problem.q, problem.a, problem.rank, int64_t{problem.blocks} * kBlock,
                     blockIdx.x);
  }
  const int64_t id = blockIdx.x - problem.gram_tiles;
  const int64_t part = id / problem.row_blocks, split = part % problem.splits;
  const int first_rank = static_cast<int>(part / problem.splits) * 8 * kTiles;
  const int lane = threadIdx.x % 32;
  const int64_t first_row = id % problem.row_blocks * kRows + threadIdx.x / 32 * 16 + lane / 4;
  RowPair rows;
  for (int r = 0; r < 2; ++r) {  // past the end the last row again, not stored
    const int64_t row = min(first_row + 8 * r, problem.out - 1);
    rows.codes[r] = problem.codes + row * problem.blocks * kBlockBytes;
    rows.block[r] = row * problem.blocks_per_row;
  }
  if constexpr (kNested) map[threadIdx.x] = problem.map[threadIdx.x];
  const float value = problem.values.of_code[lane % 16];
  const int64_t end = problem.slabs() * (split + 1) / problem.splits;
  int64_t index = problem.slabs() * split / problem.splits;
  Slab slab, next;
  load<kNested>(next, problem, rows, index);
  float sums[kTiles][4] = {};
  for (; index < end; ++index) {
    slab = next;
    __syncthreads();
    load_a<8 * kTiles>(a, problem, first_rank, index);
    if (index + 1 < end) load<kNested>(next, problem, rows, index + 1);
    __syncthreads();
    if constexpr (kNested) {
      for (int r = 0; r < 2; ++r) {
        const float product = __fmul_rn(map[slab.scale_code[r]], slab.scale[r]);
        slab.scale[r] = __fadd_rn(product, problem.offset);
      }
    }
    const auto blocks = static_cast<int>(problem.blocks - index * kSlabBlocks);
    multiply<kTiles>(sums, slab, slab.scale, a, blocks, value);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t row = min(first_row + 8 * r, problem.out - 1);
    float cross = 0.0f;
#pragma unroll
    for (int e = 0; e < 2 * kTiles; ++e) {
      const int k = first_rank + e / 2 * 8 + lane % 4 * 2 + e % 2;
      if (k < problem.rank) cross += sums[e / 2][2 * r + e % 2] * problem.b[row * problem.rank + k];
    }
    for (int offset = 1; offset < 4; offset *= 2) {
      cross += __shfl_xor_sync(0xffffffffu, cross, offset);
    }
    if (lane % 4 == 0 && first_row + 8 * r < problem.out) {
      problem.crosses[part * problem.out + row] = cross;
    }
  }
}

// Calls f with the tiles of 8 ranks in one pass over W.
template <class F>
auto with_tiles_of(int64_t rank, F&& f) {
  if (rank <= 8) return f(Constant<1>{});
  if (rank <= 16) return f(Constant<2>{});
  if (rank <= 32) return f(Constant<4>{});
  return f(Constant<kLargestTiles>{});
}

// The work's split; no addresses.
Problem problem_of(const LowRankLinear& layer) {
  Problem problem = {};
  problem.out = layer.out();
  problem.rank = static_cast<int>(layer.rank());
  problem.blocks = static_cast<int>(layer.in() / kBlock);
  problem.row_blocks = ceil_div(layer.out(), kRows);
  problem.passes = ceil_div(layer.rank(), 8 * kLargestTiles);
  problem.splits = std::clamp<int64_t>(kWantedBlocks / (problem.row_blocks * problem.passes), 1,
                                       problem.slabs());
  return problem;
}

}  // namespace

bool fits_nf4_crosses(const Weight& weight) {
  const auto* q = std::get_if<QuantizedTensor>(&weight);
  return q != nullptr && q->block_size == kBlock && q->shape.numel() > 0 &&
         q->shape.dim(1) % kBlock == 0 && q->first % kBlock == 0 && q->whole_in() % kBlock == 0 &&
         is_aligned(q->codes.raw(), 8);
}

int64_t nf4_cross_parts(const LowRankLinear& layer) {
  const Problem problem = problem_of(layer);
  return problem.splits * problem.passes;
}

void nf4_crosses(float* crosses, float* q, const LowRankLinear& layer, Stream& stream) {
  const auto& weight = std::get<QuantizedTensor>(*layer.weight);
  Problem problem = problem_of(layer);
  std::ranges::copy(nf4_values(), problem.values.of_code);
  problem.codes = weight.codes.data<uint8_t>();
  if (weight.nested()) {
    problem.scale_codes = weight.absmax.data<uint8_t>();
    problem.map = weight.nested_map.data<float>();
    problem.nested = weight.nested_absmax.data<float>();
    problem.offset = weight.nested_offset;
  } else {
    problem.plain_scales = weight.absmax.data<float>();
  }
  problem.absent = weight.first_block() % QuantizedTensor::kNestedBlock;
  problem.blocks_per_row = weight.whole_in() / kBlock;
  problem.a = rows_of<const float>(layer.a);
  problem.a_in_packs = fit_packs(layer.in(), 4, layer.a);
  problem.b = layer.b.data<float>();
  problem.q = q;
  problem.crosses = crosses;
  problem.gram_tiles = gram_tiles(layer.rank());
  const int64_t blocks = problem.row_blocks * problem.splits * problem.passes;
  with_tiles_of(layer.rank(), [&]<int kTiles>(Constant<kTiles>) {
    const auto kernel =
        weight.nested() ? nf4_crosses_kernel<kTiles, true> : nf4_crosses_kernel<kTiles, false>;
    kernel<<<problem.gram_tiles + static_cast<unsigned>(blocks), kThreads, 0, native(stream)>>>(
        problem);
  });
  check_launch("row_squares");
}

}  // namespace rankwise::cuda
