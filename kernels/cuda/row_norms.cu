// SPDX-License-Identifier: Apache-2.0
// Norms of the rows of V = W + s B A: U = W A^T by a product over expanded weights, or its sums
// with B from 4-bit codes directly (row_norms_nf4.h); then a kernel adds the three terms.
#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/gram.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/row_norms.h"
#include "kernels/cuda/row_norms_nf4.h"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kDecodedRows = 1024;  // at a time, so that scratch stays small

// Sum of squares of a row of whole packs, by a thread block, the same in every thread.
template <int N, class T>
__device__ float row_square(const T* row, int64_t width) {
  __shared__ float shared[32];
  float sum = 0.0f;
  for (int64_t c = threadIdx.x * N; c < width; c += kThreads * N) {
    const auto pack = load_pack<N>(row + c);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += to_float(pack.v[i]) * to_float(pack.v[i]);
  }
  return block_sum(sum, shared);
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    base_squares_kernel(float* squares, Rows<const T> w, int64_t width) {
  const float square = row_square<N>(w[blockIdx.x], width);
  if (threadIdx.x == 0) squares[blockIdx.x] = square;
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    set_row_norms_kernel(Rows<float> w, const float* m, int64_t width) {
  float* row = w[blockIdx.x];
  const float square = row_square<N>(row, width);
  if (square == 0.0f) return;
  const float factor = m[blockIdx.x] / sqrtf(square);
  for (int64_t c = threadIdx.x * N; c < width; c += kThreads * N) {
    auto pack = load_pack<N>(row + c);
#pragma unroll
    for (int i = 0; i < N; ++i) pack.v[i] *= factor;
    store_pack(row + c, pack);
  }
}

void launch_base_squares(float* squares, const Tensor& w, Stream& stream) {
  if (w.dim(0) == 0) return;
  for_element_type(w.dtype(), [&]<class T>(T*) {
    with_pack<kPackSize<T>>(fit_packs(w.dim(1), kPackSize<T>, w), [&]<int N>(Constant<N>) {
      base_squares_kernel<T, N><<<static_cast<unsigned>(w.dim(0)), kThreads, 0, native(stream)>>>(
          squares, rows_of<const T>(w), w.dim(1));
    });
  });
  check_launch("base_row_squares");
}

__global__ void __launch_bounds__(kGramThreads)
    gram_kernel(float* q, Rows<const float> a, int64_t rank, int64_t in) {
  gram_tile(q, a, rank, in, blockIdx.x);
}

__device__ float magnitude_factor(float m, float square) {
  return square == 0.0f ? 0.0f : m / sqrtf(square);
}

// One matrix. sum_k U_ik B_ik is that of u (out, rank), null address: 0, plus those of the rows of
// crosses (parts, out).
struct Terms {
  float* squares;
  const float* base;
  const float* b;
  float scale;
  int rank;
  int64_t out;
  const float* q = nullptr;
  Rows<const float> u = {};
  const float* crosses = nullptr;
  int64_t parts = 0;
  const float* m = nullptr;
  float* c = nullptr;  // null: not wanted
};

struct TermsList {
  Terms matrices[kMatricesPerLaunch];
};

constexpr int kTermRows = 64;  // in a thread block
constexpr int kRowThreads = kThreads / kTermRows;
constexpr int kStagedRank = 64;  // the largest whose rows of B lie in shared memory

// The sum of the terms at 4 * (index + kRowThreads * n) to + 3, n = 0, 1, ..., of a row, and of its
// crosses index + kRowThreads * n.
__device__ float part_of_terms(const Terms& terms, const float* b, int64_t row, int index) {
  float sum = 0.0f;
  for (int first = 4 * index; first < terms.rank; first += 4 * kRowThreads) {
    Pack<float, 4> term = {};
#pragma unroll 8
    for (int l = 0; l < terms.rank; ++l) {
      const auto q = load_pack<4>(terms.q + l * gram_pitch(terms.rank) + first);
#pragma unroll
      for (int j = 0; j < 4; ++j) term.v[j] += b[l] * q.v[j];
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int k = first + j;
      if (k >= terms.rank) break;
      const float product = terms.u.data == nullptr ? 0.0f : 2.0f * terms.u[row][k];
      sum += (terms.scale * term.v[j] + product) * b[k];
    }
  }
  for (int64_t part = index; part < terms.parts; part += kRowThreads) {
    sum += 2.0f * terms.crosses[part * terms.out + row];
  }
  return sum;
}

// Neighbouring threads have neighbouring rows, so that all of a warp read the same of q.
__global__ void __launch_bounds__(kThreads)
    add_terms_kernel(const __grid_constant__ TermsList list) {
  __shared__ float staged[kTermRows][kStagedRank + 1];
  __shared__ float sums[kRowThreads][kTermRows];
  const Terms& terms = list.matrices[blockIdx.y];
  const int64_t first = int64_t{blockIdx.x} * kTermRows;
  if (first >= terms.out) return;
  const int rank = terms.rank, rows = static_cast<int>(min(terms.out - first, int64_t{kTermRows}));
  const float* of_block = terms.b + first * rank;
  const bool stages = rank <= kStagedRank;
  if (stages) {
    for (int i = threadIdx.x; i < rows * rank; i += kThreads)
      staged[i / rank][i % rank] = of_block[i];
  }
  __syncthreads();
  const int row = threadIdx.x % kTermRows, index = threadIdx.x / kTermRows;
  if (row < rows) {
    const float* b = stages ? staged[row] : of_block + int64_t{row} * rank;
    sums[index][row] = part_of_terms(terms, b, first + row, index);
  }
  __syncthreads();
  if (index != 0 || row >= rows) return;
  float sum = 0.0f;
  for (int i = 0; i < kRowThreads; ++i) sum += sums[i][row];
  float square = terms.base[first + row] + terms.scale * sum;
  if (square < 0.0f) square = 0.0f;
  terms.squares[first + row] = square;
  if (terms.c != nullptr) terms.c[first + row] = magnitude_factor(terms.m[first + row], square);
}

// At most kMatricesPerLaunch.
void add_terms(std::span<const Terms> matrices, Stream& stream) {
  TermsList list = {};
  std::ranges::copy(matrices, list.matrices);
  const int64_t rows = std::ranges::max(matrices, {}, &Terms::out).out;
  const dim3 blocks(static_cast<unsigned>(ceil_div(rows, kTermRows)),
                    static_cast<unsigned>(matrices.size()));
  add_terms_kernel<<<blocks, kThreads, 0, native(stream)>>>(list);
  check_launch("row_squares");
}

Terms terms_of(const RowSquares& matrix) {
  const LowRankLinear& layer = matrix.layer;
  return {.squares = matrix.squares.data<float>(),
          .base = matrix.base.data<float>(),
          .b = layer.b.data<float>(),
          .scale = layer.scale,
          .rank = static_cast<int>(layer.rank()),
          .out = layer.out(),
          .m = address<float>(matrix.m),
          .c = address<float>(matrix.c)};
}

// Pieces of scratch one behind the other, each aligned to 256 bytes.
struct Layout {
  int64_t bytes = 0;
  int64_t place(int64_t size) {
    const int64_t begin = bytes;
    bytes += ceil_div(size, 256) * 256;
    return begin;
  }
};

// Scratch of a product of type `compute`. Its operands' rows are padded so that they begin aligned.
struct ProductLayout : Layout {
  ProductLayout(const LowRankLinear& layer, DType compute)
      : dense(is_dense(*layer.weight, compute)),
        exact(compute == DType::kF32),
        stride(ceil_div(layer.in(), 64) * 64),
        u_stride(ceil_div(layer.rank(), 8) * 8) {
    const int64_t rank = layer.rank(), out = layer.out(), size = bits_of(compute) / 8;
    workspace = place(kMatmulWorkspaceBytes);
    q = place(rank * gram_pitch(rank) * 4);
    u = place(out * u_stride * 4);
    a = place(exact ? 0 : rank * stride * size);
    w = place(dense ? 0 : out * stride * size);
  }
  bool dense, exact;
  int64_t stride, u_stride;
  int64_t workspace, q, u, a, w;
};

void row_squares_by_product(const RowSquares& matrix, DType compute, std::byte* memory,
                            Stream& stream) {
  const LowRankLinear& layer = matrix.layer;
  const ProductLayout layout(layer, compute);
  const int64_t rank = layer.rank(), in = layer.in(), out = layer.out();
  const auto place = [&](int64_t at, DType type, int64_t rows, int64_t padded, int64_t columns) {
    return Tensor(memory + at, type, {rows, padded}, stream.device()).columns(0, columns);
  };
  const Tensor u = place(layout.u, DType::kF32, out, layout.u_stride, rank);
  const Tensor a = layout.exact ? layer.a : place(layout.a, compute, rank, layout.stride, in);
  const Tensor w = layout.dense ? std::get<Tensor>(*layer.weight)
                                : place(layout.w, compute, out, layout.stride, in);
  if (!layout.exact) cast(a, layer.a, stream);
  if (!layout.dense) expand_weight(w.raw(), compute, layout.stride, *layer.weight, stream);
  product(u, w, a, {.transpose_b = true}, u, memory + layout.workspace, stream);
  auto* q = reinterpret_cast<float*>(memory + layout.q);
  gram_kernel<<<gram_tiles(rank), kGramThreads, 0, native(stream)>>>(
      q, rows_of<const float>(layer.a), rank, in);
  check_launch("row_squares");
  Terms terms = terms_of(matrix);
  terms.q = q;
  terms.u = rows_of<const float>(u);
  add_terms({&terms, 1}, stream);
}

// The places of crosses and q of a matrix.
struct DirectLayout : Layout {
  std::pair<int64_t, int64_t> add(const LowRankLinear& layer) {
    const int64_t crosses = place(nf4_cross_parts(layer) * layer.out() * 4);
    return {crosses, place(layer.rank() * gram_pitch(layer.rank()) * 4)};
  }
};

// Of NF4 weights that nf4_crosses takes, at most kMatricesPerLaunch.
void row_squares_from_codes(std::span<const RowSquares* const> matrices, std::byte* memory,
                            Stream& stream) {
  std::array<Nf4Crosses, kMatricesPerLaunch> crosses;
  std::array<Terms, kMatricesPerLaunch> terms;
  DirectLayout layout;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const LowRankLinear& layer = matrices[i]->layer;
    const auto [crosses_at, q_at] = layout.add(layer);
    crosses[i] = {&layer, reinterpret_cast<float*>(memory + crosses_at),
                  reinterpret_cast<float*>(memory + q_at)};
    terms[i] = terms_of(*matrices[i]);
    terms[i].q = crosses[i].q;
    terms[i].crosses = crosses[i].crosses;
    terms[i].parts = nf4_cross_parts(layer);
  }
  nf4_crosses(std::span(crosses).first(matrices.size()), stream);
  add_terms(std::span(terms).first(matrices.size()), stream);
}

// Vectors of `count` elements.
template <class F>
__global__ void __launch_bounds__(kThreads) for_each_kernel(int64_t count, F f) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) f(i);
}
template <class F>
void for_each(const char* op, int64_t count, const F& f, Stream& stream) {
  if (count == 0) return;
  for_each_kernel<<<static_cast<unsigned>(ceil_div(count, kThreads)), kThreads, 0,
                    native(stream)>>>(count, f);
  check_launch(op);
}

struct SquareRoot {
  float* norms;
  const float* squares;
  __device__ void operator()(int64_t i) const { norms[i] = sqrtf(squares[i]); }
};

struct MagnitudeFactor {
  float* c;
  const float* m;
  const float* squares;
  __device__ void operator()(int64_t i) const { c[i] = magnitude_factor(m[i], squares[i]); }
};

}  // namespace

void base_row_squares(const Tensor& squares, const Weight& w, Stream& stream) {
  const auto* quantized = std::get_if<QuantizedTensor>(&w);
  if (quantized == nullptr) {
    if (stream.measuring()) return;
    return launch_base_squares(squares.data<float>(), std::get<Tensor>(w), stream);
  }
  const int64_t out = quantized->shape.dim(0), in = quantized->shape.dim(1);
  const int64_t rows = std::min(out, kDecodedRows), stride = ceil_div(in, 64) * 64;
  void* memory = stream.scratch(static_cast<size_t>(rows * stride) * sizeof(float));
  if (stream.measuring()) return;
  const Tensor decoded(memory, DType::kF32, {rows, stride}, stream.device());
  for (int64_t begin = 0; begin < out; begin += rows) {
    const int64_t end = std::min(begin + rows, out);
    dequantize_rows(memory, DType::kF32, stride, *quantized, begin, end, stream);
    launch_base_squares(squares.data<float>() + begin, decoded.rows(0, end - begin).columns(0, in),
                        stream);
  }
}

void row_squares(std::span<const RowSquares> matrices, DType compute, Stream& stream) {
  std::vector<const RowSquares*> direct, others;
  for (const RowSquares& matrix : matrices) {
    if (matrix.layer.out() == 0) continue;
    const bool takes = compute == DType::kBF16 && fits_nf4_crosses(*matrix.layer.weight);
    (takes ? direct : others).push_back(&matrix);
  }
  // A launch and those after it use the same scratch.
  int64_t bytes = 0;
  for (const RowSquares* matrix : others) {
    bytes = std::max(bytes, ProductLayout(matrix->layer, compute).bytes);
  }
  std::vector<std::span<const RowSquares* const>> launches;
  for (size_t i = 0; i < direct.size(); i += kMatricesPerLaunch) {
    const size_t count = std::min<size_t>(kMatricesPerLaunch, direct.size() - i);
    launches.push_back(std::span(direct).subspan(i, count));
    DirectLayout layout;
    for (const RowSquares* matrix : launches.back()) layout.add(matrix->layer);
    bytes = std::max(bytes, layout.bytes);
  }
  if (bytes == 0) return;
  auto* memory = static_cast<std::byte*>(stream.scratch(static_cast<size_t>(bytes)));
  if (stream.measuring()) return;
  for (const auto& launch : launches) row_squares_from_codes(launch, memory, stream);
  for (const RowSquares* matrix : others) row_squares_by_product(*matrix, compute, memory, stream);
}

void square_roots(const Tensor& norms, const Tensor& squares, Stream& stream) {
  for_each("square_roots", norms.numel(), SquareRoot{norms.data<float>(), squares.data<float>()},
           stream);
}

void magnitude_factors(const Tensor& c, const Tensor& m, const Tensor& squares, Stream& stream) {
  for_each("magnitude_factors", c.numel(),
           MagnitudeFactor{c.data<float>(), m.data<float>(), squares.data<float>()}, stream);
}

void set_row_norms(const Tensor& w, const Tensor& m, Stream& stream) {
  if (w.dim(0) == 0) return;
  with_pack<kPackSize<float>>(fit_packs(w.dim(1), kPackSize<float>, w), [&]<int N>(Constant<N>) {
    set_row_norms_kernel<N><<<static_cast<unsigned>(w.dim(0)), kThreads, 0, native(stream)>>>(
        rows_of<float>(w), m.data<float>(), w.dim(1));
  });
  check_launch("set_row_norms");
}

}  // namespace rankwise::cuda
