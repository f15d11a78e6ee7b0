// SPDX-License-Identifier: Apache-2.0
// Norms of the rows of V = W + s B A: U = W A^T by a product over expanded weights, or its sums
// with B from 4-bit codes directly (row_norms_nf4.h); then one warp per row adds the three terms.
#include <algorithm>
#include <cstddef>

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
constexpr int kWarps = kThreads / 32;
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

// sum_k U_ik B_ik is that of u (out, rank), null address: 0, plus those of the rows of crosses
// (parts, out).
struct Terms {
  const float* base;
  const float* b;
  const float* q;
  Rows<const float> u = {};
  const float* crosses = nullptr;
  int64_t parts = 0;
  int64_t out, rank;
  float scale;
};

__global__ void __launch_bounds__(kThreads) add_terms_kernel(float* squares, Terms terms) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= terms.out) return;
  const int lane = threadIdx.x % 32;
  const float* b = terms.b + row * terms.rank;
  float sum = 0.0f;
  for (int64_t k = lane; k < terms.rank; k += 32) {
    float term = 0.0f;
    for (int64_t l = 0; l < terms.rank; ++l) term += b[l] * terms.q[l * terms.rank + k];
    term *= terms.scale;
    if (terms.u.data != nullptr) term += 2.0f * terms.u[row][k];
    sum += term * b[k];
  }
  for (int64_t part = lane; part < terms.parts; part += 32) {
    sum += 2.0f * terms.crosses[part * terms.out + row];
  }
  sum = warp_sum(sum);
  if (lane != 0) return;
  const float square = terms.base[row] + terms.scale * sum;
  squares[row] = square < 0.0f ? 0.0f : square;
}

void add_terms(const Tensor& squares, const Terms& terms, Stream& stream) {
  add_terms_kernel<<<static_cast<unsigned>(ceil_div(terms.out, kWarps)), kThreads, 0,
                     native(stream)>>>(squares.data<float>(), terms);
  check_launch("row_squares");
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

// With U by a product of type `compute`. Its operands' rows are padded so that they begin aligned.
void row_squares_by_product(const Tensor& squares, Terms& terms, const LowRankLinear& layer,
                            DType compute, Stream& stream) {
  const int64_t rank = layer.rank(), in = layer.in(), out = layer.out();
  const int64_t stride = ceil_div(in, 64) * 64, u_stride = ceil_div(rank, 8) * 8;
  const bool dense = is_dense(*layer.weight, compute), exact = compute == DType::kF32;
  const int64_t size = bits_of(compute) / 8;
  Layout layout;
  const int64_t workspace_at = layout.place(kMatmulWorkspaceBytes);
  const int64_t q_at = layout.place(rank * rank * 4), u_at = layout.place(out * u_stride * 4);
  const int64_t a_at = layout.place(exact ? 0 : rank * stride * size);
  const int64_t w_at = layout.place(dense ? 0 : out * stride * size);
  auto* memory = static_cast<std::byte*>(stream.scratch(static_cast<size_t>(layout.bytes)));
  if (stream.measuring()) return;
  const auto matrix = [&](int64_t at, DType type, int64_t rows, int64_t padded, int64_t columns) {
    return Tensor(memory + at, type, {rows, padded}, stream.device()).columns(0, columns);
  };
  const Tensor u = matrix(u_at, DType::kF32, out, u_stride, rank);
  const Tensor a = exact ? layer.a : matrix(a_at, compute, rank, stride, in);
  const Tensor w = dense ? std::get<Tensor>(*layer.weight) : matrix(w_at, compute, out, stride, in);
  if (!exact) cast(a, layer.a, stream);
  if (!dense) expand_weight(w.raw(), compute, stride, *layer.weight, stream);
  product(u, w, a, {.transpose_b = true}, u, memory + workspace_at, stream);
  auto* q = reinterpret_cast<float*>(memory + q_at);
  gram_kernel<<<gram_tiles(rank), kGramThreads, 0, native(stream)>>>(
      q, rows_of<const float>(layer.a), rank, in);
  check_launch("row_squares");
  terms.q = q;
  terms.u = rows_of<const float>(u);
  add_terms(squares, terms, stream);
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
  __device__ void operator()(int64_t i) const {
    c[i] = squares[i] == 0.0f ? 0.0f : m[i] / sqrtf(squares[i]);
  }
};

struct MagnitudeGradient {
  float* dm;
  const float* dots;
  const float* m;
  __device__ void operator()(int64_t i) const {
    if (m[i] != 0.0f) dm[i] += dots[i] / m[i];
  }
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

void row_squares(const Tensor& squares, const Tensor& base, const LowRankLinear& layer,
                 DType compute, Stream& stream) {
  Terms terms = {.base = base.data<float>(),
                 .b = layer.b.data<float>(),
                 .q = nullptr,
                 .out = layer.out(),
                 .rank = layer.rank(),
                 .scale = layer.scale};
  if (terms.out == 0) return;
  if (compute == DType::kF32 || !fits_nf4_crosses(*layer.weight)) {
    return row_squares_by_product(squares, terms, layer, compute, stream);
  }
  terms.parts = nf4_cross_parts(layer);
  const int64_t crosses = terms.parts * terms.out, q = terms.rank * terms.rank;
  auto* memory =
      static_cast<float*>(stream.scratch(static_cast<size_t>(crosses + q) * sizeof(float)));
  if (stream.measuring()) return;
  terms.crosses = memory;
  terms.q = memory + crosses;
  nf4_crosses(memory, memory + crosses, layer, stream);
  add_terms(squares, terms, stream);
}

void square_roots(const Tensor& norms, const Tensor& squares, Stream& stream) {
  for_each("square_roots", norms.numel(), SquareRoot{norms.data<float>(), squares.data<float>()},
           stream);
}

void magnitude_factors(const Tensor& c, const Tensor& m, const Tensor& squares, Stream& stream) {
  for_each("magnitude_factors", c.numel(),
           MagnitudeFactor{c.data<float>(), m.data<float>(), squares.data<float>()}, stream);
}

void magnitude_backward(const Tensor& dm, const Tensor& dots, const Tensor& m, Stream& stream) {
  for_each("magnitude_backward", dm.numel(),
           MagnitudeGradient{dm.data<float>(), dots.data<float>(), m.data<float>()}, stream);
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
