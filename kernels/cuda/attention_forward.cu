// SPDX-License-Identifier: Apache-2.0
// y_i = sum_j p_ij v_j, p_ij = exp(s_ij - log_sum_exp_i), s_ij = scale <q_i, k_j> over the keys j
// that query i sees. A block owns a tile of rows and meets tiles of keys with a running maximum and
// sum.
#include <cmath>

#include "kernels/cuda/attention_tile.cuh"

namespace rankwise::cuda {
namespace {

// Rows a thread owns; a tile has 16 times as many rows, and as many keys.
template <int kDim>
constexpr int kRowsOf = kDim == 256 ? 2 : 4;

// Maximum and sum over the 16 threads of a row.
__device__ inline float row_max(float x) {
  for (int offset = 8; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}
__device__ inline float row_sum(float x) {
  for (int offset = 8; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// Scores of one row become exp(score - maximum); returns what earlier sums are to be scaled by.
template <int kRows>
__device__ inline float softmax_step(float (&scores)[kRows], float& maximum, float& sum) {
  float largest = maximum;
#pragma unroll
  for (int j = 0; j < kRows; ++j) largest = fmaxf(largest, scores[j]);
  largest = row_max(largest);
  // A row that has seen no key yet: exp(-inf - 0) is 0, not NaN.
  const float shift = largest == -INFINITY ? 0.0f : largest;
  float added = 0.0f;
#pragma unroll
  for (int j = 0; j < kRows; ++j) {
    scores[j] = expf(scores[j] - shift);
    added += scores[j];
  }
  const float factor = expf(maximum - shift);
  sum = sum * factor + row_sum(added);
  maximum = largest;
  return factor;
}

template <class T, int kDim>
__global__ void __launch_bounds__(kTileThreads, 2)
    forward_kernel(Heads<T> y, float* log_sum_exp, Heads<const T> q, Heads<const T> k,
                   Heads<const T> v, TileProblem problem) {
  constexpr int kRows = kRowsOf<kDim>;
  constexpr int kSide = kRows * kTileSide;
  extern __shared__ float4 shared[];
  float* q_tile = reinterpret_cast<float*>(shared);
  float* kv_tile = q_tile + kTileFloats<kSide, kDim>;
  float* p_tile = kv_tile + kTileFloats<kSide, kDim>;
  const TileBlock block(problem);
  const int64_t first_row = block.tile * kSide;
  if (first_row >= block.rows) return;
  const int64_t own_row = first_row + threadIdx.x / kTileSide * kRows;

  load_rows<kSide, kDim>(q_tile, q, first_row, block, problem);

  float sums[kRows][kDim / kTileSide] = {};
  float maximum[kRows], sum[kRows] = {};
  for (float& m : maximum) m = -INFINITY;
  const KeyRange seen(block, first_row, kSide, problem.window);
  for (int64_t key = seen.begin; key < seen.end; key += kSide) {
    __syncthreads();
    load_keys<kSide, kDim>(kv_tile, k, key, block, problem);
    __syncthreads();
    float p[kRows][kRows];
    multiply_tiles<kRows, kDim>(p, q_tile, kv_tile, problem.dim);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        const int64_t own_key = key + threadIdx.x % kTileSide + j * kTileSide;
        const bool visible = block.visible(own_row + i, own_key, problem.window);
        p[i][j] = visible ? p[i][j] * problem.scale : -INFINITY;
      }
      const float factor = softmax_step(p[i], maximum[i], sum[i]);
      for (float& x : sums[i]) x *= factor;
    }
    store_weights(p_tile, p);
    __syncthreads();
    load_keys<kSide, kDim>(kv_tile, v, key, block, problem);
    __syncthreads();
    add_weighted_rows<kRows, kDim>(sums, p_tile, kv_tile);
  }

  for (int i = 0; i < kRows; ++i) {
    const int64_t row = own_row + i;
    if (row >= block.rows) break;
    const int64_t token = block.token(row);
    const int head = block.head(row);
    store_row<kDim>(y.data + token * y.row_stride + head * problem.dim, sums[i], 1.0f / sum[i],
                    problem);
    if (log_sum_exp != nullptr && threadIdx.x % kTileSide == 0) {
      log_sum_exp[log_sum_exp_index(problem, token, head)] = maximum[i] + logf(sum[i]);
    }
  }
}

}  // namespace

void tiled_attention(const Tensor& y, const Tensor& log_sum_exp, const AttentionInputs& in,
                     Stream& stream) {
  const int64_t documents = in.query_offsets.numel() - 1;
  if (in.q.numel() == 0) return;
  TileProblem problem = tile_problem(in);
  problem.vectors = problem.vectors && moves_in_fours(y);
  float* sums = log_sum_exp.defined() ? log_sum_exp.data<float>() : nullptr;
  for_tile_width(problem.dim, [&](auto width) {
    constexpr int kDim = width;
    constexpr int kSide = kRowsOf<kDim> * kTileSide;
    constexpr size_t kShared =
        (2 * kTileFloats<kSide, kDim> + kTileFloats<kSide, kSide>)*sizeof(float);
    const unsigned grid =
        tile_grid(problem, in.params.longest_query * problem.group, kSide, documents);
    for_element_type(in.q.dtype(), [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      allow_shared_memory(forward_kernel<T, kDim>, kShared);
      forward_kernel<T, kDim><<<grid, kTileThreads, kShared, native(stream)>>>(
          heads_of<T>(y), sums, heads_of<const T>(in.q), heads_of<const T>(in.k),
          heads_of<const T>(in.v), problem);
    });
  });
  check_launch("attention");
}

}  // namespace rankwise::cuda
