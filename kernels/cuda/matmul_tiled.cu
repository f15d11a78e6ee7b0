// SPDX-License-Identifier: Apache-2.0
// The product for layouts that cuBLASLt refuses, such as bf16 rows at odd addresses, and for k = 0.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_call.h"

namespace rankwise::cuda {
namespace {

constexpr int kTile = 32;      // rows and columns of D per block, and depth of one step
constexpr int kBlockRows = 8;  // rows of threads; each thread makes kTile / kBlockRows elements

// Element (row, column) of op(M), 0 outside of it.
template <class T>
struct Operand {
  const T* data;
  int64_t rows, columns, stride;
  bool transposed;

  __device__ float at(int64_t row, int64_t column) const {
    if (row >= rows || column >= columns) return 0.0f;
    return to_float(transposed ? data[column * stride + row] : data[row * stride + column]);
  }
  // A (kTile, kTile) piece; neighbouring threads read neighbouring elements as stored.
  __device__ void load(float (*tile)[kTile + 1], int64_t row, int64_t column) const {
    for (int i = threadIdx.y; i < kTile; i += kBlockRows) {
      const int j = threadIdx.x;
      if (transposed) {
        tile[j][i] = at(row + j, column + i);
      } else {
        tile[i][j] = at(row + i, column + j);
      }
    }
  }
};

// d[i][j] = alpha * sum_l a[i][l] b[l][j] + beta * c[i][j]
template <class In, class Out>
__global__ void __launch_bounds__(kTile* kBlockRows)
    tiled_matmul_kernel(Operand<In> a, Operand<In> b, const Out* c, Out* d, int64_t c_stride,
                        int64_t d_stride, float alpha, float beta) {
  __shared__ float a_tile[kTile][kTile + 1];
  __shared__ float b_tile[kTile][kTile + 1];
  const int64_t tiles_across = (b.columns + kTile - 1) / kTile;
  const int64_t first_row = blockIdx.x / tiles_across * kTile;
  const int64_t first_column = blockIdx.x % tiles_across * kTile;
  float sums[kTile / kBlockRows] = {};
  for (int64_t depth = 0; depth < a.columns; depth += kTile) {
    a.load(a_tile, first_row, depth);
    b.load(b_tile, depth, first_column);
    __syncthreads();
    for (int l = 0; l < kTile; ++l) {
      const float factor = b_tile[l][threadIdx.x];
#pragma unroll
      for (int i = 0; i < kTile / kBlockRows; ++i) {
        sums[i] += a_tile[threadIdx.y + i * kBlockRows][l] * factor;
      }
    }
    __syncthreads();
  }
  const int64_t column = first_column + threadIdx.x;
  if (column >= b.columns) return;
#pragma unroll
  for (int i = 0; i < kTile / kBlockRows; ++i) {
    const int64_t row = first_row + threadIdx.y + i * kBlockRows;
    if (row >= a.rows) return;
    float value = alpha * sums[i];
    if (beta != 0.0f) value += beta * to_float(c[row * c_stride + column]);
    d[row * d_stride + column] = from_float<Out>(value);
  }
}

template <class In, class Out>
void launch(const MatmulCall& call, Stream& stream) {
  const Operand<In> a = {static_cast<const In*>(call.a), call.m, call.k, call.a_stride,
                         call.transpose_a};
  const Operand<In> b = {static_cast<const In*>(call.b), call.k, call.n, call.b_stride,
                         call.transpose_b};
  const int64_t blocks = ceil_div(call.m, kTile) * ceil_div(call.n, kTile);
  tiled_matmul_kernel<<<static_cast<unsigned>(blocks), dim3(kTile, kBlockRows), 0,
                        native(stream)>>>(a, b, static_cast<const Out*>(call.c),
                                          static_cast<Out*>(call.d), call.c_stride, call.d_stride,
                                          call.alpha, call.beta);
  check_launch("matmul");
}

}  // namespace

void tiled_matmul(const MatmulCall& call, Stream& stream) {
  for_element_type(call.input, [&]<class In>(In*) {
    for_element_type(call.output, [&]<class Out>(Out*) { launch<In, Out>(call, stream); });
  });
}

}  // namespace rankwise::cuda
