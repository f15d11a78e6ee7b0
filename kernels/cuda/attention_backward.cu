// SPDX-License-Identifier: Apache-2.0
// With p as in the forward pass, dp_ij = <dy_i, v_j>, delta_i = <dy_i, y_i> and
// ds_ij = scale p_ij (dp_ij - delta_i):
//   dq_i = sum_j ds_ij k_j,  dk_j = sum_i ds_ij q_i,  dv_j = sum_i p_ij dy_i,
// dk and dv also over the heads that share the kv head. One kernel owns tiles of rows, one tiles of
// keys, so that every sum has one owner and a fixed order.
#include "kernels/cuda/attention_tile.cuh"

namespace rankwise::cuda {
namespace {

template <int kDim>
constexpr int kRowsOf = 256 / kDim;

template <class T>
struct BackwardOperands {
  Heads<const T> q, k, v, dy;
  const float* log_sum_exp;
  const float* delta;  // (Tq, H)
};

// One warp per query and head.
template <class T>
__global__ void delta_kernel(float* delta, Heads<const T> dy, Heads<const T> y, int64_t count,
                             int heads, int dim) {
  const int64_t item = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (item >= count) return;
  const int64_t token = item / heads;
  const int64_t column = item % heads * dim;
  float sum = 0.0f;
  for (int e = threadIdx.x % 32; e < dim; e += 32) {
    sum += to_float(dy.data[token * dy.row_stride + column + e]) *
           to_float(y.data[token * y.row_stride + column + e]);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[item] = sum;
}

// log_sum_exp and delta of a row; 0 behind the last row.
template <class T>
__device__ inline float2 row_sums(const BackwardOperands<T>& in, int64_t row,
                                  const TileBlock& block, const TileProblem& problem) {
  if (row >= block.rows) return {0.0f, 0.0f};
  const int64_t token = block.token(row);
  const int head = block.head(row);
  return {in.log_sum_exp[log_sum_exp_index(problem, token, head)],
          in.delta[token * problem.heads + head]};
}

template <class T, int kDim>
__global__ void __launch_bounds__(kTileThreads, 2)
    query_gradient_kernel(Heads<T> dq, BackwardOperands<T> in, TileProblem problem) {
  constexpr int kRows = kRowsOf<kDim>;
  constexpr int kSide = kRows * kTileSide;
  extern __shared__ float4 shared[];
  float* q_tile = reinterpret_cast<float*>(shared);
  float* dy_tile = q_tile + kTileFloats<kSide, kDim>;
  float* k_tile = dy_tile + kTileFloats<kSide, kDim>;
  float* v_tile = k_tile + kTileFloats<kSide, kDim>;
  float* ds_tile = v_tile + kTileFloats<kSide, kDim>;
  const TileBlock block(problem);
  const int64_t first_row = block.tile * kSide;
  if (first_row >= block.rows) return;
  const int64_t own_row = first_row + threadIdx.x / kTileSide * kRows;
  load_rows<kSide, kDim>(q_tile, in.q, first_row, block, problem);
  load_rows<kSide, kDim>(dy_tile, in.dy, first_row, block, problem);
  float2 of_row[kRows];
  for (int i = 0; i < kRows; ++i) of_row[i] = row_sums(in, own_row + i, block, problem);

  float sums[kRows][kDim / kTileSide] = {};
  const KeyRange seen(block, first_row, kSide, problem.window);
  for (int64_t key = seen.begin; key < seen.end; key += kSide) {
    __syncthreads();
    load_keys<kSide, kDim>(k_tile, in.k, key, block, problem);
    load_keys<kSide, kDim>(v_tile, in.v, key, block, problem);
    __syncthreads();
    float s[kRows][kRows], ds[kRows][kRows];
    multiply_tiles<kRows, kDim>(s, q_tile, k_tile, problem.dim);
    multiply_tiles<kRows, kDim>(ds, dy_tile, v_tile, problem.dim);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        const int64_t own_key = key + threadIdx.x % kTileSide + j * kTileSide;
        const bool visible = block.visible(own_row + i, own_key, problem.window);
        const float p = visible ? expf(s[i][j] * problem.scale - of_row[i].x) : 0.0f;
        ds[i][j] = p * (ds[i][j] - of_row[i].y) * problem.scale;
      }
    }
    store_weights(ds_tile, ds);
    __syncwarp();  // a row of weights belongs to 16 threads of one warp
    add_weighted_rows<kRows, kDim>(sums, ds_tile, k_tile);
  }
  for (int i = 0; i < kRows; ++i) {
    const int64_t row = own_row + i;
    if (row >= block.rows) break;
    store_row<kDim>(dq.data + block.token(row) * dq.row_stride + block.head(row) * problem.dim,
                    sums[i], 1.0f, problem);
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(kTileThreads, 2)
    key_gradient_kernel(Heads<T> dk, Heads<T> dv, BackwardOperands<T> in, TileProblem problem) {
  constexpr int kRows = kRowsOf<kDim>;
  constexpr int kSide = kRows * kTileSide;
  extern __shared__ float4 shared[];
  float* k_tile = reinterpret_cast<float*>(shared);
  float* v_tile = k_tile + kTileFloats<kSide, kDim>;
  float* q_tile = v_tile + kTileFloats<kSide, kDim>;
  float* dy_tile = q_tile + kTileFloats<kSide, kDim>;
  float* weights = dy_tile + kTileFloats<kSide, kDim>;
  const TileBlock block(problem);
  const int64_t first_key = block.tile * kSide;
  if (first_key >= block.keys) return;
  const int64_t own_key = first_key + threadIdx.x / kTileSide * kRows;
  load_keys<kSide, kDim>(k_tile, in.k, first_key, block, problem);
  load_keys<kSide, kDim>(v_tile, in.v, first_key, block, problem);

  float dk_sums[kRows][kDim / kTileSide] = {};
  float dv_sums[kRows][kDim / kTileSide] = {};
  // Queries that see any key of the tile.
  const int64_t first_query = max(static_cast<int64_t>(0), first_key - block.past);
  int64_t end_query = block.queries;
  if (problem.window > 0) {
    end_query = min(end_query, first_key + kSide - 1 + problem.window - block.past);
  }
  for (int64_t row = first_query * block.group; row < end_query * block.group; row += kSide) {
    __syncthreads();
    load_rows<kSide, kDim>(q_tile, in.q, row, block, problem);
    load_rows<kSide, kDim>(dy_tile, in.dy, row, block, problem);
    __syncthreads();
    float p[kRows][kRows], ds[kRows][kRows];
    multiply_tiles<kRows, kDim>(p, k_tile, q_tile, problem.dim);
    multiply_tiles<kRows, kDim>(ds, v_tile, dy_tile, problem.dim);
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      const int64_t own_row = row + threadIdx.x % kTileSide + j * kTileSide;
      const float2 of_row = row_sums(in, own_row, block, problem);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const bool visible = block.visible(own_row, own_key + i, problem.window);
        p[i][j] = visible ? expf(p[i][j] * problem.scale - of_row.x) : 0.0f;
        ds[i][j] = p[i][j] * (ds[i][j] - of_row.y) * problem.scale;
      }
    }
    store_weights(weights, p);
    __syncwarp();  // a row of weights belongs to 16 threads of one warp
    add_weighted_rows<kRows, kDim>(dv_sums, weights, dy_tile);
    __syncwarp();
    store_weights(weights, ds);
    __syncwarp();
    add_weighted_rows<kRows, kDim>(dk_sums, weights, q_tile);
  }
  for (int i = 0; i < kRows; ++i) {
    const int64_t key = own_key + i;
    if (key >= block.keys) break;
    const int64_t column = block.kv_head * problem.dim;
    const int64_t token = block.first_key + key;
    store_row<kDim>(dk.data + token * dk.row_stride + column, dk_sums[i], 1.0f, problem);
    store_row<kDim>(dv.data + token * dv.row_stride + column, dv_sums[i], 1.0f, problem);
  }
}

template <class T>
void launch_backward(const AttentionGradients& gradients, const AttentionOutputs& outputs,
                     const AttentionInputs& in, float* delta, Stream& stream) {
  const int64_t documents = in.query_offsets.numel() - 1;
  const int64_t count = in.q.dim(0) * in.q.dim(1);
  TileProblem problem = tile_problem(in);
  for (const Tensor* x : {&gradients.dq, &gradients.dk, &gradients.dv, &outputs.dy}) {
    problem.vectors = problem.vectors && moves_in_fours(*x);
  }
  const BackwardOperands<T> operands{
      heads_of<const T>(in.q),       heads_of<const T>(in.k),           heads_of<const T>(in.v),
      heads_of<const T>(outputs.dy), outputs.log_sum_exp.data<float>(), delta};
  constexpr int kThreads = 256;
  if (count > 0) {
    delta_kernel<T>
        <<<static_cast<unsigned>(ceil_div(count * 32, kThreads)), kThreads, 0, native(stream)>>>(
            delta, operands.dy, heads_of<const T>(outputs.y), count, problem.heads, problem.dim);
  }
  for_tile_width(problem.dim, [&](auto width) {
    constexpr int kDim = width;
    constexpr int kSide = kRowsOf<kDim> * kTileSide;
    constexpr size_t kShared =
        (4 * kTileFloats<kSide, kDim> + kTileFloats<kSide, kSide>)*sizeof(float);
    if (count > 0) {
      const unsigned grid =
          tile_grid(problem, in.params.longest_query * problem.group, kSide, documents);
      allow_shared_memory(query_gradient_kernel<T, kDim>, kShared);
      query_gradient_kernel<T, kDim><<<grid, kTileThreads, kShared, native(stream)>>>(
          heads_of<T>(gradients.dq), operands, problem);
    }
    const unsigned grid = tile_grid(problem, in.params.longest_key, kSide, documents);
    allow_shared_memory(key_gradient_kernel<T, kDim>, kShared);
    key_gradient_kernel<T, kDim><<<grid, kTileThreads, kShared, native(stream)>>>(
        heads_of<T>(gradients.dk), heads_of<T>(gradients.dv), operands, problem);
  });
}

}  // namespace

size_t tiled_attention_scratch(const AttentionInputs& in) {
  return static_cast<size_t>(in.q.dim(0) * in.q.dim(1)) * sizeof(float);
}

void tiled_attention_backward(const AttentionGradients& gradients, const AttentionOutputs& outputs,
                              const AttentionInputs& in, Stream& stream) {
  auto* delta = static_cast<float*>(stream.scratch(tiled_attention_scratch(in)));
  if (in.k.numel() == 0) return;
  for_element_type(in.q.dtype(), [&](auto* type) {
    launch_backward<std::remove_pointer_t<decltype(type)>>(gradients, outputs, in, delta, stream);
  });
  check_launch("attention_backward");
}

}  // namespace rankwise::cuda
