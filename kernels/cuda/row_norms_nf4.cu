// SPDX-License-Identifier: Apache-2.0
// crosses[part][i] = sum_k (W A^T)_ik B_ik over the columns of W and the k of a part. W is decoded
// to the bf16 fragments of m16n8k16 products and never written; sums over the columns of a block
// take its scale. The order of the columns inside a product is free as long as both operands have
// the same: thread t of a quad takes 8 consecutive codes, one word, as the columns of two products
// that the layout of fragments gives it.
#include <algorithm>

#include "kernels/cuda/gram.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_norms_nf4.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/quantize.h"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = kGramThreads;
constexpr int kRowTiles = 2;                // of 16 rows, in a warp
constexpr int kThreadRows = 2 * kRowTiles;  // 8 rows apart
constexpr int kWarpRows = 16 * kRowTiles;
constexpr int kRows = kThreads / 32 * kWarpRows;  // of W in a thread block
constexpr int kBlock = kNf4Block;                 // columns with one scale
constexpr int kBlockWords = kBlock / 16;          // uint2, one per thread of a quad
constexpr int kSlabBlocks = 2;
constexpr int kSlab = kSlabBlocks * kBlock;
constexpr int kPitch = kSlab + 8;  // rows of A begin in different banks
constexpr int kSlabsOfPart = 8;    // at most: results do not depend on the rest of a list
constexpr int kLargestTiles = 4;   // of 8 ranks: what the registers of a thread can sum

// The 16 values in pairs, by byte, once per lane: no two lanes of a warp want the same bank.
using Pairs = uint32_t[256][32];

struct Problem {
  const uint8_t* codes;
  const float* plain_scales;  // by block, entries before `absent` do not exist; or, when nested:
  const uint8_t* scale_codes;
  const float* map;
  const float* nested;
  float offset;
  int rank;
  int64_t absent;          // blocks between the start of the first group and the first block
  int64_t blocks_per_row;  // of the whole matrix
  Rows<const float> a;
  const float* b;
  float* q;
  float* crosses;
  int64_t out;
  int64_t row_blocks;
  int64_t splits;  // of the slabs of a row
  int64_t passes;  // over W, each with other ranks
  int blocks;      // in a row
  bool a_in_packs;
  unsigned end;  // of the matrix's thread blocks: its parts, then the tiles of q

  __host__ __device__ int64_t slabs() const { return (blocks + kSlabBlocks - 1) / kSlabBlocks; }
  __host__ __device__ int64_t parts() const { return splits * passes; }
};

struct Problems {
  float value_of_code[16];
  Problem matrices[kMatricesPerLaunch];
};

// What a thread reads of a slab: of each of its rows 16 codes of each block, and two of the quad's
// scales, of block quad_thread % 2 and rows quad_thread / 2 * 2 and the next.
struct Slab {
  uint2 codes[kThreadRows][kSlabBlocks];
  float scale[2];
  uint32_t scale_code[2];
};

// The rows of a thread.
struct ThreadRows {
  const uint2* codes[kThreadRows];  // of the next slab
  uint32_t block[2];                // the first of the rows whose scales it reads, from `absent` on
};

// A slab takes but half a line of each row: the rest is fetched for the slabs that follow.
__device__ uint2 load_codes(const uint2* from) {
  uint2 codes;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0, %1}, [%2];"
               : "=r"(codes.x), "=r"(codes.y)
               : "l"(from));
  return codes;
}

__device__ void load(Slab& slab, const Problem& problem, ThreadRows& rows, int index) {
  const int first = index * kSlabBlocks;
  const int own = min(first + static_cast<int>(threadIdx.x % 2), problem.blocks - 1);
#pragma unroll
  for (int i = 0; i < kSlabBlocks; ++i) {
    if (first + i >= problem.blocks) break;
#pragma unroll
    for (int r = 0; r < kThreadRows; ++r) {
      slab.codes[r][i] = load_codes(rows.codes[r] + i * kBlockWords);
    }
  }
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) rows.codes[r] += kSlabBlocks * kBlockWords;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const uint32_t block = rows.block[r] + own;
    if (problem.scale_codes == nullptr) {
      slab.scale[r] = __ldg(problem.plain_scales + block);
    } else {
      slab.scale_code[r] = __ldg(problem.scale_codes + block);
      slab.scale[r] = __ldg(problem.nested + block / QuantizedTensor::kNestedBlock);
    }
  }
}

// Packs of a slab of A that a thread moves, one of each kThreads / (kSlab / 4) ranks.
template <int kTiles>
struct SlabOfA {
  static constexpr int kPacks = kSlab / 4;  // of a rank
  static constexpr int kRanks = kThreads / kPacks;
  static_assert(kRanks == 8);
  Pack<float, 4> packs[kTiles];

  // Ranks from `first` on, 0 outside of A.
  __device__ void load(const Problem& problem, int first, int index) {
    const int block = index * kSlabBlocks + static_cast<int>(threadIdx.x) % kPacks / (kBlock / 4);
    const int own = first + static_cast<int>(threadIdx.x) / kPacks;
    const float* from = problem.a[own] + index * kSlab + threadIdx.x % kPacks * 4;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile, from += kRanks * problem.a.stride) {
      packs[tile] = {};
      if (own + tile * kRanks >= problem.rank || block >= problem.blocks) continue;
      if (problem.a_in_packs) {
        packs[tile] = load_pack<4>(from);
      } else {
        for (int e = 0; e < 4; ++e) packs[tile].v[e] = from[e];
      }
    }
  }

  __device__ void store(bf16 (*to)[kPitch]) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const auto& x = packs[tile];
      const Pack<__nv_bfloat162, 2> pairs = {__floats2bfloat162_rn(x.v[0], x.v[1]),
                                             __floats2bfloat162_rn(x.v[2], x.v[3])};
      bf16* row = to[tile * kRanks + threadIdx.x / kPacks];
      store_pack(reinterpret_cast<__nv_bfloat162*>(row + threadIdx.x % kPacks * 4), pairs);
    }
  }
};

// Thread i writes the pair of byte i, the even element, in the high nibble, first.
__device__ void fill_pairs(Pairs& pairs, const float (&value_of_code)[16]) {
  static_assert(kThreads == 256);
  const unsigned byte = threadIdx.x;
  const __nv_bfloat162 pair =
      __floats2bfloat162_rn(value_of_code[byte / 16], value_of_code[byte % 16]);
  const auto bits = *reinterpret_cast<const uint32_t*>(&pair);
  const Pack<uint32_t, 4> copies = {bits, bits, bits, bits};
  for (unsigned i = 0; i < 8; ++i) store_pack(&pairs[byte][(i + byte) % 8 * 4], copies);
}

// Eight codes as pairs.
__device__ void decode(uint32_t (&to)[4], uint32_t packed, const Pairs& pairs) {
  const auto* first = reinterpret_cast<const uint8_t*>(pairs);
  constexpr uint32_t kRow = sizeof(pairs[0]), kRowMask = 255 * kRow;
  static_assert(kRow == 1 << 7);
  const uint32_t lane = threadIdx.x % 32 * sizeof(uint32_t);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t shifted = i == 0 ? packed << 7 : packed >> (8 * i - 7);
    to[i] = *reinterpret_cast<const uint32_t*>(first + ((shifted & kRowMask) | lane));
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

template <int kTiles>
using Sums = float[kRowTiles][kTiles][4];

// sums = the products of block `i` of a slab of the warp's rows with 8 * kTiles ranks.
template <int kTiles>
__device__ void multiply_block(Sums<kTiles>& sums, const Slab& slab, int i, bf16 (*a)[kPitch],
                               const Pairs& pairs) {
  const int group = threadIdx.x % 32 / 4, quad_thread = threadIdx.x % 4;
#pragma unroll
  for (int word = 0; word < 2; ++word) {
    uint32_t w[kThreadRows][4];
#pragma unroll
    for (int r = 0; r < kThreadRows; ++r) {
      decode(w[r], word == 0 ? slab.codes[r][i].x : slab.codes[r][i].y, pairs);
    }
    const int column = i * kBlock + quad_thread * 16 + word * 8;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint4 columns = *reinterpret_cast<const uint4*>(&a[tile * 8 + group][column]);
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) {
        multiply_add(sums[t][tile], w[2 * t], w[2 * t + 1], columns.x, columns.y);
        multiply_add(sums[t][tile], w[2 * t] + 2, w[2 * t + 1] + 2, columns.z, columns.w);
      }
    }
  }
}

// sums += the products of the first `blocks` blocks of a slab.
template <int kTiles>
__device__ void multiply(Sums<kTiles>& sums, const Slab& slab, bf16 (*a)[kPitch],
                         const Pairs& pairs, int blocks) {
#pragma unroll
  for (int i = 0; i < kSlabBlocks; ++i) {
    if (i >= blocks) break;
    Sums<kTiles> of_block = {};
    multiply_block<kTiles>(of_block, slab, i, a, pairs);
#pragma unroll
    for (int r = 0; r < kThreadRows; ++r) {
      const float scale = __shfl_sync(0xffffffffu, slab.scale[r % 2], r / 2 * 2 + i, 4);
#pragma unroll
      for (int e = 0; e < 2 * kTiles; ++e) {
        const int at = r % 2 * 2 + e % 2;
        sums[r / 2][e / 2][at] += scale * of_block[r / 2][e / 2][at];
      }
    }
  }
}

// Stores the sums of a part with B.
template <int kTiles>
__device__ void store_crosses(const Problem& problem, const Sums<kTiles>& sums, int64_t part,
                              int64_t first_row, int first_rank) {
  const int quad_thread = threadIdx.x % 4;
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) {
    const int64_t row = min(first_row + 8 * r, problem.out - 1);
    float cross = 0.0f;
#pragma unroll
    for (int e = 0; e < 2 * kTiles; ++e) {
      const int k = first_rank + e / 2 * 8 + quad_thread * 2 + e % 2;
      if (k >= problem.rank) continue;
      cross += sums[r / 2][e / 2][r % 2 * 2 + e % 2] * problem.b[row * problem.rank + k];
    }
    for (int offset = 1; offset < 4; offset *= 2) {
      cross += __shfl_xor_sync(0xffffffffu, cross, offset);
    }
    if (quad_thread == 0 && first_row + 8 * r < problem.out) {
      problem.crosses[part * problem.out + row] = cross;
    }
  }
}

__device__ ThreadRows rows_of_thread(const Problem& problem, int64_t first_row, int slab) {
  const int quad_thread = threadIdx.x % 4;
  const auto inside = [&](int r) {  // past the end the last row again, not stored
    return min(first_row + 8 * r, problem.out - 1);
  };
  ThreadRows rows;
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) {
    rows.codes[r] = reinterpret_cast<const uint2*>(problem.codes) +
                    (inside(r) * problem.blocks + int64_t{slab} * kSlabBlocks) * kBlockWords +
                    quad_thread;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    rows.block[r] = static_cast<uint32_t>(problem.absent +
                                          inside(quad_thread / 2 * 2 + r) * problem.blocks_per_row);
  }
  return rows;
}

template <int kTiles>
__global__ void __launch_bounds__(kThreads, kTiles <= 2 ? 2 : 1)
    nf4_crosses_kernel(const __grid_constant__ Problems list) {
  __shared__ alignas(16) bf16 a[8 * kTiles][kPitch];
  __shared__ alignas(16) Pairs pairs;
  __shared__ float map[256];
  int matrix = 0;
  while (blockIdx.x >= list.matrices[matrix].end) ++matrix;
  const Problem& problem = list.matrices[matrix];
  const int64_t id = blockIdx.x - (matrix == 0 ? 0 : list.matrices[matrix - 1].end);
  const int64_t part = id / problem.row_blocks, split = part % problem.splits;
  if (part >= problem.parts()) {
    return gram_tile(problem.q, problem.a, problem.rank, int64_t{problem.blocks} * kBlock,
                     static_cast<unsigned>(id - problem.parts() * problem.row_blocks));
  }
  const int first_rank = static_cast<int>(part / problem.splits) * 8 * kTiles;
  const int64_t first_row =
      id % problem.row_blocks * kRows + threadIdx.x / 32 * kWarpRows + threadIdx.x % 32 / 4;
  const auto end = static_cast<int>(problem.slabs() * (split + 1) / problem.splits);
  auto index = static_cast<int>(problem.slabs() * split / problem.splits);
  ThreadRows rows = rows_of_thread(problem, first_row, index);
  Slab slab, next;
  SlabOfA<kTiles> next_a;
  load(next, problem, rows, index);
  next_a.load(problem, first_rank, index);
  fill_pairs(pairs, list.value_of_code);
  const bool nested = problem.scale_codes != nullptr;
  if (nested) map[threadIdx.x] = problem.map[threadIdx.x];
  Sums<kTiles> sums = {};
  for (; index < end; ++index) {
    slab = next;
    __syncthreads();
    next_a.store(a);
    if (index + 1 < end) {
      load(next, problem, rows, index + 1);
      next_a.load(problem, first_rank, index + 1);
    }
    __syncthreads();
    if (nested) {
      for (int r = 0; r < 2; ++r) {
        const float product = __fmul_rn(map[slab.scale_code[r]], slab.scale[r]);
        slab.scale[r] = __fadd_rn(product, problem.offset);
      }
    }
    multiply<kTiles>(sums, slab, a, pairs, problem.blocks - index * kSlabBlocks);
  }
  store_crosses<kTiles>(problem, sums, part, first_row, first_rank);
}

// Calls f with the tiles of 8 ranks in one pass over W.
template <class F>
void with_tiles_of(int rank, F&& f) {
  if (rank <= 8) return f(Constant<1>{});
  if (rank <= 16) return f(Constant<2>{});
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
  problem.splits = ceil_div(problem.slabs(), kSlabsOfPart);
  return problem;
}

Problem problem_of(const Nf4Crosses& matrix) {
  const LowRankLinear& layer = *matrix.layer;
  const auto& weight = std::get<QuantizedTensor>(*layer.weight);
  Problem problem = problem_of(layer);
  problem.codes = weight.codes.data<uint8_t>();
  problem.absent = weight.first_block() % QuantizedTensor::kNestedBlock;
  if (weight.nested()) {
    problem.scale_codes = weight.absmax.data<uint8_t>() - problem.absent;
    problem.map = weight.nested_map.data<float>();
    problem.nested = weight.nested_absmax.data<float>();
    problem.offset = weight.nested_offset;
  } else {
    problem.plain_scales = weight.absmax.data<float>() - problem.absent;
  }
  problem.blocks_per_row = weight.whole_in() / kBlock;
  problem.a = rows_of<const float>(layer.a);
  problem.a_in_packs = fit_packs(layer.in(), 4, layer.a);
  problem.b = layer.b.data<float>();
  problem.q = matrix.q;
  problem.crosses = matrix.crosses;
  return problem;
}

}  // namespace

bool fits_nf4_crosses(const Weight& weight) {
  const auto* q = std::get_if<QuantizedTensor>(&weight);
  return q != nullptr && q->block_size == kBlock && q->shape.numel() > 0 &&
         q->shape.dim(0) * q->whole_in() / kBlock < (int64_t{1} << 31) &&
         q->shape.dim(1) % kBlock == 0 && q->first % kBlock == 0 && q->whole_in() % kBlock == 0 &&
         is_aligned(q->codes.raw(), 8);
}

int64_t nf4_cross_parts(const LowRankLinear& layer) { return problem_of(layer).parts(); }

void nf4_crosses(std::span<const Nf4Crosses> matrices, Stream& stream) {
  RW_ASSERT(std::ssize(matrices) <= kMatricesPerLaunch, "{} matrices", matrices.size());
  Problems list = {};
  std::ranges::copy(nf4_values(), list.value_of_code);
  unsigned blocks = 0;
  int rank = 0;
  for (size_t i = 0; i < matrices.size(); ++i) {
    Problem& problem = list.matrices[i] = problem_of(matrices[i]);
    blocks +=
        static_cast<unsigned>(problem.row_blocks * problem.parts()) + gram_tiles(problem.rank);
    problem.end = blocks;
    rank = std::max(rank, problem.rank);
  }
  with_tiles_of(rank, [&]<int kTiles>(Constant<kTiles>) {
    nf4_crosses_kernel<kTiles><<<blocks, kThreads, 0, native(stream)>>>(list);
  });
  check_launch("row_squares");
}

}  // namespace rankwise::cuda
