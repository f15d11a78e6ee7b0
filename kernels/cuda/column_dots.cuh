// SPDX-License-Identifier: Apache-2.0
// The first of the two stages of sums over tokens: a block adds up one chunk of rows. Its lanes lie
// along 32 packs of columns, a tile, and its warps along the rows.
#pragma once

#include <algorithm>

#include "kernels/cuda/column_dots.h"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {

constexpr int kSumWarps = 8;
constexpr int kSumThreads = 32 * kSumWarps;

inline int64_t sum_tiles(int64_t width, int pack) { return ceil_div(width, 32 * pack); }

// Rows of a chunk: a few blocks per multiprocessor over all tiles, unless that leaves a warp with
// little to do. It depends on shapes only, so that results are the same on every device.
struct SumChunks {
  SumChunks(int64_t rows, int64_t tiles) {
    constexpr int64_t kBlocks = 2048;
    constexpr int64_t kFewestRows = 4 * kSumWarps;
    const int64_t wanted = ceil_div(rows, ceil_div(kBlocks, std::max<int64_t>(1, tiles)));
    size = std::max<int64_t>(1, ceil_div(wanted, kFewestRows)) * kFewestRows;
    count = ceil_div(rows, size);
  }
  int64_t size, count;
};

// A thread's columns, and the rows of its warp: begin, begin + kSumWarps, ... below end.
template <int N>
struct SumPlace {
  __device__ SumPlace(int64_t tile, int64_t rows, int64_t chunk_rows)
      : first(tile * (32 * N)),
        column(first + threadIdx.x % 32 * N),
        begin(blockIdx.y * chunk_rows + threadIdx.x / 32),
        end(min(rows, (blockIdx.y + 1) * chunk_rows)) {}
  int64_t first;  // column of the tile
  int64_t column;
  int64_t begin, end;
};

template <int N>
using SumsOfWarps = Pack<float, N>[kSumWarps][32];

// Adds up the sums of the warps, in order; write(c, total) for each column c of the tile. To be
// called by all threads; `shared` may be used again afterwards.
template <int N, class Write>
__device__ void add_warps(const Pack<float, N>& sums, SumsOfWarps<N>& shared, Write&& write) {
  shared[threadIdx.x / 32][threadIdx.x % 32] = sums;
  __syncthreads();
  for (int c = threadIdx.x; c < 32 * N; c += kSumThreads) {
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kSumWarps; ++warp) total += shared[warp][c / N].v[c % N];
    write(c, total);
  }
  __syncthreads();
}

template <int N>
__device__ Pack<float, N> load_or_zeros(const float* from, int64_t column) {
  return from == nullptr ? Pack<float, N>{} : load_pack<N>(from + column);
}

// Whether a bias can be loaded in packs.
inline bool fits_packs(const ColumnDots& dots, int pack) {
  return is_aligned(dots.bias.raw(), int64_t{pack} * static_cast<int64_t>(sizeof(float)));
}

}  // namespace rankwise::cuda
