// SPDX-License-Identifier: Apache-2.0
// dbias[c] += sum_t dy[t, c] and sum += sum_i x[i]^2: partial sums of fixed chunks, then their sum
// in chunk order, so that results repeat bit by bit.
#include <algorithm>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tensor_list.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// partial (chunks, width): sums over the rows of a chunk. Lanes lie along the columns, warps along
// the rows.
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    sum_chunk_rows(float* partial, Rows<const T> dy, int64_t rows, int64_t width,
                   int64_t rows_per_chunk) {
  __shared__ float of_warp[kWarps][32 * N];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int64_t first_column = int64_t{blockIdx.x} * (32 * N);
  const int64_t column = first_column + lane * N;
  const int64_t begin = blockIdx.y * rows_per_chunk;
  const int64_t end = min(rows, begin + rows_per_chunk);
  float sum[N] = {};
  if (column + N <= width) {
#pragma unroll 4
    for (int64_t row = begin + warp; row < end; row += kWarps) {
      const Pack<T, N> pack = load_pack<N>(dy[row] + column);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += to_float(pack.v[i]);
    }
  } else {
    for (int64_t row = begin + warp; row < end; row += kWarps) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (column + i < width) sum[i] += to_float(dy[row][column + i]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) of_warp[warp][lane * N + i] = sum[i];
  __syncthreads();
  for (int c = threadIdx.x; c < 32 * N && first_column + c < width; c += kThreads) {
    float total = 0.0f;
    for (int w = 0; w < kWarps; ++w) total += of_warp[w][c];
    partial[blockIdx.y * width + first_column + c] = total;
  }
}

__global__ void __launch_bounds__(kThreads)
    add_chunks_kernel(float* out, const float* __restrict__ partial, int64_t chunks,
                      int64_t width) {
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= width) return;
  float sum = out[column];
#pragma unroll 8
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * width + column];
  out[column] = sum;
}

struct Values {
  const float* x;
  int64_t count;
};
constexpr int kSquaresPerBlock = 16384;
using SquareList = TensorList<Values, 128, kSquaresPerBlock>;

__device__ double square(float x) { return static_cast<double>(x) * static_cast<double>(x); }

__global__ void __launch_bounds__(kThreads)
    sum_chunk_squares(double* partial, const __grid_constant__ SquareList list) {
  __shared__ double shared[32];
  const auto part = list.part_of_block(static_cast<int>(blockIdx.x));
  const float* x = part.item.x + part.begin;
  const int count = static_cast<int>(part.count);
  const int packs = reinterpret_cast<uintptr_t>(x) % 16 == 0 ? count / 4 : 0;
  double sum = 0.0;
#pragma unroll 4
  for (int i = threadIdx.x; i < packs; i += kThreads) {
    const float4 v = reinterpret_cast<const float4*>(x)[i];
    sum += square(v.x) + square(v.y) + square(v.z) + square(v.w);
  }
  for (int i = 4 * packs + threadIdx.x; i < count; i += kThreads) sum += square(x[i]);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

constexpr int kFinalThreads = 1024;

__global__ void __launch_bounds__(kFinalThreads)
    add_partial_squares(double* out, const double* partial, int64_t count) {
  __shared__ double shared[32];
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kFinalThreads) sum += partial[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *out += sum;
}

}  // namespace

void bias_backward(const Tensor& dbias, const Tensor& dy, Stream& stream) {
  constexpr int64_t kMostChunks = 64;
  constexpr int64_t kFewestRows = 32;
  const int64_t rows_per_chunk = std::max(kFewestRows, ceil_div(dy.dim(0), kMostChunks));
  const int64_t chunks = ceil_div(dy.dim(0), rows_per_chunk);
  const int64_t width = dy.dim(1);
  auto* partial =
      static_cast<float*>(stream.scratch(static_cast<size_t>(chunks * width) * sizeof(float)));
  if (stream.measuring() || dy.numel() == 0) return;
  for_element_type(dy.dtype(), [&]<class T>(T*) {
    const bool aligned = is_aligned(dy.raw(), 16) && dy.row_stride() % kPackSize<T> == 0;
    with_pack<kPackSize<T>>(aligned, [&]<int N>(Constant<N>) {
      const dim3 grid(static_cast<unsigned>(ceil_div(width, 32 * N)),
                      static_cast<unsigned>(chunks));
      sum_chunk_rows<N, T><<<grid, kThreads, 0, native(stream)>>>(partial, rows_of<const T>(dy),
                                                                  dy.dim(0), width, rows_per_chunk);
    });
  });
  check_launch("bias_backward");
  add_chunks(dbias.data<float>(), partial, chunks, width, stream);
}

void add_chunks(float* out, const float* partial, int64_t chunks, int64_t width, Stream& stream) {
  add_chunks_kernel<<<static_cast<unsigned>(ceil_div(width, kThreads)), kThreads, 0,
                      native(stream)>>>(out, partial, chunks, width);
  check_launch("add_chunks");
}

void sum_of_squares(const Tensor& sum, std::span<const Tensor> xs, Stream& stream) {
  std::vector<Values> values;
  values.reserve(xs.size());
  int64_t blocks = 0;
  for (const Tensor& x : xs) {
    values.push_back({x.data<float>(), x.numel()});
    blocks += SquareList::blocks_of(x.numel());
  }
  auto* partial =
      static_cast<double*>(stream.scratch(static_cast<size_t>(blocks) * sizeof(double)));
  if (stream.measuring() || blocks == 0) return;
  double* next = partial;
  for_each_list<SquareList>(values, [&](const SquareList& list) {
    sum_chunk_squares<<<static_cast<unsigned>(list.blocks), kThreads, 0, native(stream)>>>(next,
                                                                                           list);
    check_launch("sum_of_squares");
    next += list.blocks;
  });
  add_partial_squares<<<1, kFinalThreads, 0, native(stream)>>>(sum.data<double>(), partial, blocks);
  check_launch("sum_of_squares");
}

}  // namespace rankwise::cuda
