// SPDX-License-Identifier: Apache-2.0
// Blocks of rows and keys of the project's own attention kernels. For one kv head of one document a
// row is a query of one of the heads that share it: row r is query r / group of head r % group.
// Tiles of rows and of keys lie in shared memory in fp32, filled up with zeros to kDim columns.
#pragma once

#include <climits>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"

namespace rankwise::cuda {

constexpr int kTileThreads = 256;  // 16 x 16: thread (ty, tx) owns rows ty * kRows..., see below
constexpr int kTileSide = 16;

// A matrix (tokens, heads, D).
template <class T>
struct Heads {
  T* data;
  int64_t row_stride;
};

template <class T>
Heads<T> heads_of(const Tensor& x) {
  return {static_cast<T*>(x.raw()), x.row_stride()};
}

// What all passes know of the problem.
struct TileProblem {
  const int32_t* query_offsets;
  const int32_t* key_offsets;
  int64_t tiles;  // of rows, or of keys, of the longest document
  int64_t window;
  int64_t log_sum_exp_length;
  int heads;
  int kv_heads;
  int group;
  int dim;
  float scale;
  bool vectors;  // four elements of any operand can be moved at once
};

// The document, kv head and tile of a block. Late tiles have the most keys and begin first.
struct TileBlock {
  __device__ explicit TileBlock(const TileProblem& problem) {
    int64_t id = blockIdx.x;
    tile = problem.tiles - 1 - id % problem.tiles;
    id /= problem.tiles;
    kv_head = static_cast<int>(id % problem.kv_heads);
    const int64_t document = id / problem.kv_heads;
    first_query = problem.query_offsets[document];
    queries = problem.query_offsets[document + 1] - first_query;
    first_key = problem.key_offsets[document];
    keys = problem.key_offsets[document + 1] - first_key;
    past = keys - queries;
    rows = queries * problem.group;
    group = problem.group;
  }

  __device__ int64_t token(int64_t row) const { return first_query + row / group; }
  __device__ int head(int64_t row) const { return kv_head * group + static_cast<int>(row % group); }
  __device__ int64_t position(int64_t row) const { return past + row / group; }
  __device__ bool visible(int64_t row, int64_t key, int64_t window) const {
    const int64_t distance = position(row) - key;
    return row < rows && distance >= 0 && (window == 0 || distance < window);
  }

  int64_t tile, first_query, queries, first_key, keys;
  int64_t past;  // keys before the first query
  int64_t rows;
  int kv_head, group;
};

// Keys that any of the rows [first_row, first_row + count) sees.
struct KeyRange {
  __device__ KeyRange(const TileBlock& block, int64_t first_row, int64_t count, int64_t window) {
    end = block.position(min(first_row + count, block.rows) - 1) + 1;
    begin = 0;
    if (window > 0) begin = max(begin, block.position(first_row) - window + 1);
  }

  int64_t begin, end;
};

__device__ inline int64_t log_sum_exp_index(const TileProblem& problem, int64_t token, int head) {
  const int64_t length = problem.log_sum_exp_length;
  if (length == 0) return token * problem.heads + head;
  return (token / length * problem.heads + head) * length + token % length;
}

// Rows of tiles are padded so that neighbouring rows begin in different banks.
template <int kDim>
constexpr int kTilePitch = kDim + 4;

template <class T>
__device__ inline float4 load_four(const T* from, int count, bool vectors) {
  float x[4] = {};
  if (vectors) {
    const Pack<T, 4> pack = *reinterpret_cast<const Pack<T, 4>*>(from);
    for (int i = 0; i < 4; ++i) x[i] = to_float(pack.v[i]);
  } else {
    for (int i = 0; i < 4; ++i) {
      if (i < count) x[i] = to_float(from[i]);
    }
  }
  return {x[0], x[1], x[2], x[3]};
}

template <class T>
__device__ inline void store_four(T* to, const float* x, int count, bool vectors) {
  if (vectors) {
    Pack<T, 4> pack;
    for (int i = 0; i < 4; ++i) pack.v[i] = from_float<T>(x[i]);
    *reinterpret_cast<Pack<T, 4>*>(to) = pack;
  } else {
    for (int i = 0; i < 4; ++i) {
      if (i < count) to[i] = from_float<T>(x[i]);
    }
  }
}

// tile (kCount, kDim) = items [first, first + kCount), zero from `end` on; `address` gives the D
// elements of an item.
template <int kCount, int kDim, class Address>
__device__ void load_tile(float* tile, int64_t first, int64_t end, const TileProblem& problem,
                          Address address) {
  constexpr int kFours = kDim / 4;
#pragma unroll 4
  for (int i = threadIdx.x; i < kCount * kFours; i += kTileThreads) {
    const int item = i / kFours;
    const int e = i % kFours * 4;
    float4 x = {};
    if (first + item < end && e < problem.dim) {
      x = load_four(address(first + item) + e, problem.dim - e, problem.vectors);
    }
    *reinterpret_cast<float4*>(tile + item * kTilePitch<kDim> + e) = x;
  }
}

// The tile of rows, or of keys, that begins at `first`.
template <int kSide, int kDim, class T>
__device__ void load_rows(float* tile, const Heads<const T>& x, int64_t first,
                          const TileBlock& block, const TileProblem& problem) {
  load_tile<kSide, kDim>(tile, first, block.rows, problem, [&](int64_t row) {
    return x.data + block.token(row) * x.row_stride + block.head(row) * problem.dim;
  });
}

template <int kSide, int kDim, class T>
__device__ void load_keys(float* tile, const Heads<const T>& x, int64_t first,
                          const TileBlock& block, const TileProblem& problem) {
  load_tile<kSide, kDim>(tile, first, block.keys, problem, [&](int64_t key) {
    return x.data + (block.first_key + key) * x.row_stride + block.kv_head * problem.dim;
  });
}

// products[i][j] = <row ty * kRows + i of a, row tx + 16 j of b>.
template <int kRows, int kDim>
__device__ inline void multiply_tiles(float (&products)[kRows][kRows], const float* a,
                                      const float* b, int dim) {
  const int ty = threadIdx.x / kTileSide;
  const int tx = threadIdx.x % kTileSide;
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kRows; ++j) products[i][j] = 0.0f;
  }
  a += ty * kRows * kTilePitch<kDim>;
  b += tx * kTilePitch<kDim>;
#pragma unroll 2
  for (int e = 0; e < dim; e += 4) {
    float4 x[kRows], y[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      x[i] = *reinterpret_cast<const float4*>(a + i * kTilePitch<kDim> + e);
      y[i] = *reinterpret_cast<const float4*>(b + i * kTileSide * kTilePitch<kDim> + e);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        products[i][j] += x[i].x * y[j].x + x[i].y * y[j].y + x[i].z * y[j].z + x[i].w * y[j].w;
      }
    }
  }
}

// Row ty * kRows + i, column tx + 16 j of a square tile of weights.
template <int kRows>
__device__ inline void store_weights(float* tile, const float (&weights)[kRows][kRows]) {
  constexpr int kPitch = kTilePitch<kRows * kTileSide>;
  const int ty = threadIdx.x / kTileSide;
  const int tx = threadIdx.x % kTileSide;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      tile[(ty * kRows + i) * kPitch + tx + j * kTileSide] = weights[i][j];
    }
  }
}

// sums[i] += row ty * kRows + i of weights (side, side) times tile (side, kDim); of its columns a
// thread holds four neighbours in each 64, from 4 tx on.
template <int kRows, int kDim>
__device__ inline void add_weighted_rows(float (&sums)[kRows][kDim / kTileSide],
                                         const float* weights, const float* tile) {
  constexpr int kSide = kRows * kTileSide;
  const int ty = threadIdx.x / kTileSide;
  const int tx = threadIdx.x % kTileSide;
  weights += ty * kRows * kTilePitch<kSide>;
  tile += 4 * tx;
#pragma unroll 1
  for (int c = 0; c < kSide; c += 4) {
    float w[kRows][4];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const auto four = *reinterpret_cast<const float4*>(weights + i * kTilePitch<kSide> + c);
      w[i][0] = four.x, w[i][1] = four.y, w[i][2] = four.z, w[i][3] = four.w;
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int j = 0; j < kDim / 64; ++j) {
        const auto x = *reinterpret_cast<const float4*>(tile + (c + n) * kTilePitch<kDim> + j * 64);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          sums[i][4 * j] += w[i][n] * x.x;
          sums[i][4 * j + 1] += w[i][n] * x.y;
          sums[i][4 * j + 2] += w[i][n] * x.z;
          sums[i][4 * j + 3] += w[i][n] * x.w;
        }
      }
    }
  }
}

// The thread's columns of one row, times `factor`, to D elements at `to`.
template <int kDim, class T>
__device__ inline void store_row(T* to, float (&sums)[kDim / kTileSide], float factor,
                                 const TileProblem& problem) {
  const int tx = threadIdx.x % kTileSide;
#pragma unroll
  for (int j = 0; j < kDim / 64; ++j) {
    const int e = 64 * j + 4 * tx;
    float x[4];
    for (int n = 0; n < 4; ++n) x[n] = sums[4 * j + n] * factor;
    if (e < problem.dim) store_four(to + e, x, problem.dim - e, problem.vectors);
  }
}

// Calls f with the smallest width of tiles that holds D columns, as a constant.
template <class F>
void for_tile_width(int64_t dim, F&& f) {
  RW_ASSERT(dim > 0 && dim <= 256, "attention: head dimension {}, at most 256", dim);
  if (dim <= 64) return f(std::integral_constant<int, 64>{});
  if (dim <= 128) return f(std::integral_constant<int, 128>{});
  f(std::integral_constant<int, 256>{});
}

// Whether rows of x can be moved four elements at a time.
inline bool moves_in_fours(const Tensor& x) {
  return x.dim(2) % 4 == 0 && x.row_stride() % 4 == 0 &&
         is_aligned(x.raw(), bits_of(x.dtype()) / 2);
}

inline TileProblem tile_problem(const AttentionInputs& in) {
  TileProblem problem{};
  problem.query_offsets = in.query_offsets.data<int32_t>();
  problem.key_offsets = in.key_offsets.data<int32_t>();
  problem.window = in.params.window;
  problem.log_sum_exp_length = log_sum_exp_length(in);
  problem.heads = static_cast<int>(in.q.dim(1));
  problem.kv_heads = static_cast<int>(in.k.dim(1));
  problem.group = problem.heads / problem.kv_heads;
  problem.dim = static_cast<int>(in.q.dim(2));
  problem.scale = in.params.scale;
  problem.vectors = moves_in_fours(in.q) && moves_in_fours(in.k) && moves_in_fours(in.v);
  return problem;
}

// Sets how many tiles of `side` items the longest document has and returns the size of the grid.
inline unsigned tile_grid(TileProblem& problem, int64_t longest, int64_t side, int64_t documents) {
  problem.tiles = ceil_div(longest, side);
  const int64_t blocks = documents * problem.kv_heads * problem.tiles;
  RW_ASSERT(blocks <= INT_MAX, "attention: {} blocks", blocks);
  return static_cast<unsigned>(blocks);
}

// Floats of a tile of kCount items, and of a square tile of weights.
template <int kCount, int kDim>
constexpr int kTileFloats = kCount* kTilePitch<kDim>;

template <class Kernel>
void allow_shared_memory(Kernel* kernel, size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "attention");
}

}  // namespace rankwise::cuda
