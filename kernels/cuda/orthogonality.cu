// SPDX-License-Identifier: Apache-2.0
// M = p p^T - I (or p^T p - I), ||M||_F and its gradient for a list of matrices: products over
// chunks of n, their sums in chunk order with the norms, then M p; each for as many matrices as one
// launch takes.
#include <algorithm>
#include <vector>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/orthogonality.h"
#include "kernels/cuda/tensor_list.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kSide = 16;  // threads along a side of a block
constexpr int kThreads = kSide * kSide;
constexpr int kDepth = 64;               // columns of n in shared memory at a time
constexpr int64_t kChunk = 32 * kDepth;  // columns of n that a block multiplies

// p(j, k) with j < r and k < n, whichever way it lies in memory.
struct Matrix {
  const float* p;
  float* gradient;
  float* m;      // (chunks, r, r) partial products; then M in the first
  double* norm;  // ||M||_F
  int64_t n;
  int r;
  bool columns;
  int64_t count;  // thread blocks

  __host__ __device__ int64_t chunks() const { return (n + kChunk - 1) / kChunk; }
  __device__ int64_t place(int64_t j, int64_t k) const { return columns ? k * r + j : j * n + k; }
};
using MatrixList = TensorList<Matrix, 56, 1>;

// Rows [first_j, first_j + kRows) and columns [first_k, first_k + kDepth) of p, 0 outside it.
template <int kRows>
__device__ void load_tile(float (*tile)[kDepth + 1], const Matrix& x, int first_j,
                          int64_t first_k) {
  for (int i = threadIdx.x; i < kRows * kDepth; i += kThreads) {
    const int j = x.columns ? i % kRows : i / kDepth;
    const int k = x.columns ? i / kRows : i % kDepth;
    const bool inside = first_j + j < x.r && first_k + k < x.n;
    tile[j][k] = inside ? x.p[x.place(first_j + j, first_k + k)] : 0.0f;
  }
}

// m[chunk][i][j] = sum of p(i, k) p(j, k) over the k of a chunk: one tile of kRows rows and columns
// of it per thread block, kSub by kSub elements per thread.
template <int kSub>
__global__ void __launch_bounds__(kThreads)
    multiply_chunks(const __grid_constant__ MatrixList list) {
  constexpr int kRows = kSub * kSide;
  __shared__ float left[kRows][kDepth + 1];
  __shared__ float other[kRows][kDepth + 1];
  const auto part = list.part_of_block(static_cast<int>(blockIdx.x));
  const Matrix& x = part.item;
  const int tiles = (x.r + kRows - 1) / kRows;
  const int tile = static_cast<int>(part.begin % (tiles * tiles));
  const int64_t chunk = part.begin / (tiles * tiles);
  const int first_i = tile / tiles * kRows, first_j = tile % tiles * kRows;
  const auto& right = first_i == first_j ? left : other;
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  float sum[kSub][kSub] = {};
  const int64_t end = min(x.n, (chunk + 1) * kChunk);
  for (int64_t first_k = chunk * kChunk; first_k < end; first_k += kDepth) {
    load_tile<kRows>(left, x, first_i, first_k);
    if (first_i != first_j) load_tile<kRows>(other, x, first_j, first_k);
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < kDepth; ++k) {
#pragma unroll
      for (int a = 0; a < kSub; ++a) {
#pragma unroll
        for (int b = 0; b < kSub; ++b) {
          sum[a][b] += left[ty + a * kSide][k] * right[tx + b * kSide][k];
        }
      }
    }
    __syncthreads();
  }
  for (int a = 0; a < kSub; ++a) {
    for (int b = 0; b < kSub; ++b) {
      const int i = first_i + ty + a * kSide, j = first_j + tx + b * kSide;
      if (i < x.r && j < x.r) x.m[(chunk * x.r + i) * x.r + j] = sum[a][b];
    }
  }
}

// The first of m becomes M: the sum over the chunks minus I. A thread block per matrix.
__global__ void __launch_bounds__(kThreads)
    finish_products(const __grid_constant__ MatrixList list) {
  __shared__ double shared[32];
  const auto part = list.part_of_block(static_cast<int>(blockIdx.x));
  const Matrix& x = part.item;
  const int64_t elements = int64_t{x.r} * x.r;
  double squares = 0.0;
  for (int64_t i = threadIdx.x; i < elements; i += kThreads) {
    double sum = i % (x.r + 1) == 0 ? -1.0 : 0.0;
    for (int64_t chunk = 0; chunk < x.chunks(); ++chunk) sum += x.m[chunk * elements + i];
    squares += sum * sum;
    x.m[i] = static_cast<float>(sum);
  }
  squares = block_sum(squares, shared);
  if (threadIdx.x == 0) *x.norm = sqrt(squares);
}

__global__ void __launch_bounds__(kThreads)
    add_norms(double* out, const double* norms, int64_t count) {
  __shared__ double shared[32];
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += norms[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *out += sum;
}

// gradient(j, k) += factor / ||M|| * sum_i M(i, j) p(i, k): kRows rows and kDepth columns per
// thread block. Neighbouring threads take neighbouring addresses of the gradient.
template <int kSub>
__global__ void __launch_bounds__(kThreads)
    add_gradients(const __grid_constant__ MatrixList list, double factor) {
  constexpr int kRows = kSub * kSide;
  constexpr int kColumns = kDepth / kSide;
  __shared__ float m[kRows][kRows + 1];
  __shared__ float p[kRows][kDepth + 1];
  const auto part = list.part_of_block(static_cast<int>(blockIdx.x));
  const Matrix& x = part.item;
  const double norm = *x.norm;
  if (norm == 0.0) return;
  const int tiles = (x.r + kRows - 1) / kRows;
  const int first_j = static_cast<int>(part.begin % tiles) * kRows;
  const int64_t first_k = part.begin / tiles * kDepth;
  const int quick = threadIdx.x % kSide, slow = threadIdx.x / kSide;
  const int own_j = x.columns ? quick : slow, own_k = x.columns ? slow : quick;
  float sum[kSub][kColumns] = {};
  for (int first_i = 0; first_i < x.r; first_i += kRows) {
    load_tile<kRows>(p, x, first_i, first_k);
    for (int e = threadIdx.x; e < kRows * kRows; e += kThreads) {
      const int i = first_i + e / kRows, j = first_j + e % kRows;
      m[e / kRows][e % kRows] = i < x.r && j < x.r ? x.m[int64_t{i} * x.r + j] : 0.0f;
    }
    __syncthreads();
#pragma unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int a = 0; a < kSub; ++a) {
#pragma unroll
        for (int b = 0; b < kColumns; ++b) {
          sum[a][b] += m[i][own_j + a * kSide] * p[i][own_k + b * kSide];
        }
      }
    }
    __syncthreads();
  }
  const auto scale = static_cast<float>(factor / norm);
  for (int a = 0; a < kSub; ++a) {
    for (int b = 0; b < kColumns; ++b) {
      const int j = first_j + own_j + a * kSide;
      const int64_t k = first_k + own_k + b * kSide;
      if (j < x.r && k < x.n) x.gradient[x.place(j, k)] += scale * sum[a][b];
    }
  }
}

// Calls f with the elements of a side of a tile per thread, for matrices of at most this r.
template <class F>
void with_tile(int64_t largest_r, F&& f) {
  if (largest_r <= kSide) return f(std::integral_constant<int, 1>{});
  if (largest_r <= 2 * kSide) return f(std::integral_constant<int, 2>{});
  f(std::integral_constant<int, 4>{});
}

// One launch for as many matrices as fit, with blocks(matrix) thread blocks each.
template <class Kernel, class Blocks, class... Arguments>
void launch_all(std::vector<Matrix>& matrices, Kernel kernel, Blocks blocks, Stream& stream,
                Arguments... arguments) {
  for (Matrix& x : matrices) x.count = blocks(x);
  for_each_list<MatrixList>(matrices, [&](const MatrixList& list) {
    kernel<<<static_cast<unsigned>(list.blocks), kThreads, 0, native(stream)>>>(list, arguments...);
    check_launch("orthogonality");
  });
}

}  // namespace

void orthogonality(const Tensor& sum, std::span<const OrthogonalityTerm> terms, float weight,
                   Stream& stream) {
  std::vector<Matrix> matrices;
  int64_t products = 0, largest_r = 0;
  for (const OrthogonalityTerm& term : terms) {
    Matrix x = {};
    x.p = term.p.data<float>();
    x.gradient = term.gradient.data<float>();
    x.n = term.n();
    x.r = static_cast<int>(term.r());
    x.columns = term.columns;
    products += x.chunks() * x.r * x.r;
    largest_r = std::max(largest_r, term.r());
    matrices.push_back(x);
  }
  const size_t norm_bytes = matrices.size() * sizeof(double);
  void* memory = stream.scratch(norm_bytes + static_cast<size_t>(products) * sizeof(float));
  if (stream.measuring() || matrices.empty()) return;
  auto* norms = static_cast<double*>(memory);
  auto* next = reinterpret_cast<float*>(norms + matrices.size());
  for (size_t i = 0; i < matrices.size(); ++i) {
    matrices[i].norm = norms + i;
    matrices[i].m = next;
    next += matrices[i].chunks() * matrices[i].r * matrices[i].r;
  }
  with_tile(largest_r, [&]<int kSub>(std::integral_constant<int, kSub>) {
    const auto tiles = [](const Matrix& x) { return ceil_div(x.r, kSub * kSide); };
    launch_all(
        matrices, multiply_chunks<kSub>,
        [&](const Matrix& x) { return tiles(x) * tiles(x) * x.chunks(); }, stream);
    launch_all(
        matrices, finish_products, [](const Matrix&) { return 1; }, stream);
    launch_all(
        matrices, add_gradients<kSub>,
        [&](const Matrix& x) { return tiles(x) * ceil_div(x.n, kDepth); }, stream, 2.0 * weight);
  });
  add_norms<<<1, kThreads, 0, native(stream)>>>(sum.data<double>(), norms,
                                                static_cast<int64_t>(matrices.size()));
  check_launch("orthogonality");
}

}  // namespace rankwise::cuda
