// SPDX-License-Identifier: Apache-2.0
// The Gram matrix of the rows of a low-rank factor.
#pragma once

#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {

constexpr int kGramThreads = 256;
constexpr int kGramSide = 4;

inline unsigned gram_tiles(int64_t rank) {
  const int64_t along_side = ceil_div(rank, kGramSide);
  return static_cast<unsigned>(along_side * along_side);
}

// Elements between rows of q, which are whole packs of 4.
__host__ __device__ inline int64_t gram_pitch(int64_t rank) {
  return (rank + kGramSide - 1) / kGramSide * kGramSide;
}

// One of the gram_tiles square tiles of q (rank, gram_pitch) = A A^T and columns of 0, A (rank,
// in), by a thread block of kGramThreads.
__device__ inline void gram_tile(float* q, Rows<const float> a, int64_t rank, int64_t in,
                                 unsigned tile) {
  constexpr int kWarps = kGramThreads / 32, kElements = kGramSide * kGramSide;
  __shared__ float shared[kElements][kWarps];
  const int64_t along_side = (rank + kGramSide - 1) / kGramSide;
  const int64_t first_i = tile / along_side * kGramSide, first_j = tile % along_side * kGramSide;
  const float* left[kGramSide];
  const float* right[kGramSide];
  for (int x = 0; x < kGramSide; ++x) {
    left[x] = a[min(first_i + x, rank - 1)];
    right[x] = a[min(first_j + x, rank - 1)];
  }
  float sum[kElements] = {};
#pragma unroll 4
  for (int64_t k = threadIdx.x; k < in; k += kGramThreads) {
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      sum[e] += left[e / kGramSide][k] * right[e % kGramSide][k];
    }
  }
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    const float of_warp = warp_sum(sum[e]);
    if (threadIdx.x % 32 == 0) shared[e][threadIdx.x / 32] = of_warp;
  }
  __syncthreads();
  if (threadIdx.x >= kElements) return;
  const int64_t i = first_i + threadIdx.x / kGramSide, j = first_j + threadIdx.x % kGramSide;
  float total = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) total += shared[threadIdx.x][warp];
  if (i < rank) q[i * gram_pitch(rank) + j] = j < rank ? total : 0.0f;
}

}  // namespace rankwise::cuda
