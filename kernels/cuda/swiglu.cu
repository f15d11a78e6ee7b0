// SPDX-License-Identifier: Apache-2.0
// SwiGLU on CUDA: y = silu(gate) * up, silu(x) = x * sigmoid(x)
//   dgate = dy * up * sigmoid(gate) * (1 + gate * (1 - sigmoid(gate))), dup = dy * silu(gate)
// A thread owns the same columns of a few rows, reads them all, then writes them: the outputs may
// be the inputs.
#include "kernels/cuda/column_dots.cuh"
#include "kernels/cuda/swiglu.h"

namespace rankwise::cuda {
namespace {

constexpr int kForwardRows = 4;  // of a thread
constexpr int kBackwardRows = 2;

// The rounding of bf16 hides the error of the approximate functions.
template <class T>
__device__ float sigmoid(float x) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return 1.0f / (1.0f + expf(-x));
  } else {
    return __fdividef(1.0f, 1.0f + __expf(-x));
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kTilePacks)
    forward_rows(Rows<T> y, Rows<const T> gate, Rows<const T> up, int64_t rows, int packs) {
  const Tile tile = tile_of_thread<N>(packs);
  if (!tile.inside) return;
  const int64_t row = tile.row * kForwardRows;
  Pack<T, N> g[kForwardRows], u[kForwardRows];
#pragma unroll
  for (int i = 0; i < kForwardRows; ++i) {
    if (row + i >= rows) break;
    g[i] = load_pack<N>(gate[row + i] + tile.column);
    u[i] = load_pack<N>(up[row + i] + tile.column);
  }
#pragma unroll
  for (int i = 0; i < kForwardRows; ++i) {
    if (row + i >= rows) break;
    Pack<T, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float x = to_float(g[i].v[k]);
      out.v[k] = from_float<T>(x * sigmoid<T>(x) * to_float(u[i].v[k]));
    }
    store_pack(y[row + i] + tile.column, out);
  }
}

// dgate replaces g, dup replaces u; silu(gate) * up replaces d. see(k, gate, up, dgate, dup) is
// given the values before they are rounded.
template <class T, int N, class See>
__device__ void differentiate(Pack<T, N>& g, Pack<T, N>& u, Pack<T, N>& d, See&& see) {
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float x = to_float(g.v[k]);
    const float y = to_float(u.v[k]);
    const float from_up = to_float(d.v[k]) * y;
    const float from_gate = to_float(d.v[k]) * x;
    const float s = sigmoid<T>(x);
    const float dx = from_up * s * (1.0f + x * (1.0f - s));
    const float dy = from_gate * s;
    d.v[k] = from_float<T>(x * s * y);
    g.v[k] = from_float<T>(dx);
    u.v[k] = from_float<T>(dy);
    see(k, x, y, dx, dy);
  }
}

template <class T>
struct BackwardRows {
  Rows<T> dgate, dup, inner;  // inner.data may be null
  Rows<const T> dy, gate, up;
};

template <class T, int N>
__global__ void __launch_bounds__(kTilePacks)
    backward_rows(BackwardRows<T> x, int64_t rows, int packs) {
  const Tile tile = tile_of_thread<N>(packs);
  if (!tile.inside) return;
  const int64_t row = tile.row * kBackwardRows;
  Pack<T, N> g[kBackwardRows], u[kBackwardRows], d[kBackwardRows];
#pragma unroll
  for (int i = 0; i < kBackwardRows; ++i) {
    if (row + i >= rows) break;
    g[i] = load_pack<N>(x.gate[row + i] + tile.column);
    u[i] = load_pack<N>(x.up[row + i] + tile.column);
    d[i] = load_pack<N>(x.dy[row + i] + tile.column);
  }
#pragma unroll
  for (int i = 0; i < kBackwardRows; ++i) {
    if (row + i >= rows) break;
    differentiate(g[i], u[i], d[i], [](int, float, float, float, float) {});
    store_pack(x.dgate[row + i] + tile.column, g[i]);
    store_pack(x.dup[row + i] + tile.column, u[i]);
    if (x.inner.data != nullptr) store_pack(x.inner[row + i] + tile.column, d[i]);
  }
}

struct BackwardDots {
  const float *gate_bias, *up_bias;  // may be null
  float* partial;                    // (chunks, 2 * width), gate first
  int64_t chunk_rows;
};

// store_pack as one access: in the loop below the compiler takes it apart into its elements.
template <class T, int N>
__device__ void store_whole(T* to, const Pack<T, N>& value) {
  if constexpr (sizeof(value) == sizeof(uint4)) {
    __stwb(reinterpret_cast<uint4*>(to), *reinterpret_cast<const uint4*>(&value));
  } else {
    store_pack(to, value);
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kSumThreads, 3)
    backward_rows_with_dots(BackwardRows<T> x, BackwardDots dots, int64_t rows, int64_t width) {
  __shared__ SumsOfWarps<N> of_warp;
  const SumPlace<N> place(blockIdx.x, rows, dots.chunk_rows);
  Pack<float, N> gate_sum = {}, up_sum = {};
  if (place.column < width) {
    const Pack<float, N> gate_bias = load_or_zeros<N>(dots.gate_bias, place.column);
    const Pack<float, N> up_bias = load_or_zeros<N>(dots.up_bias, place.column);
    // More rows at once would take registers from other warps, which hide the latency as well.
#pragma unroll 1
    for (int64_t row = place.begin; row < place.end; row += kSumWarps) {
      Pack<T, N> g = load_pack<N>(x.gate[row] + place.column);
      Pack<T, N> u = load_pack<N>(x.up[row] + place.column);
      Pack<T, N> d = load_pack<N>(x.dy[row] + place.column);
      differentiate(g, u, d, [&](int k, float gate, float up, float dgate, float dup) {
        gate_sum.v[k] += dgate * (gate - gate_bias.v[k]);
        up_sum.v[k] += dup * (up - up_bias.v[k]);
      });
      store_whole(x.dgate[row] + place.column, g);
      store_whole(x.dup[row] + place.column, u);
      if (x.inner.data != nullptr) store_whole(x.inner[row] + place.column, d);
    }
  }
  float* const out = dots.partial + blockIdx.y * 2 * width + place.first;
  add_warps<N>(gate_sum, of_warp, [&](int c, float total) {
    if (place.first + c < width) out[c] = total;
  });
  add_warps<N>(up_sum, of_warp, [&](int c, float total) {
    if (place.first + c < width) out[width + c] = total;
  });
}

template <class T>
void backward_with_dots(const SwigluGradients& to, const BackwardRows<T>& x, const Shape& shape,
                        bool packed, Stream& stream) {
  constexpr int kPack = kPackSize<T>;
  const int64_t rows = shape.dim(0), width = shape.dim(1);
  const SumChunks chunks(rows, sum_tiles(width, kPack));
  const auto values = static_cast<size_t>(chunks.count * 2 * width);
  auto* partial = static_cast<float*>(stream.scratch(values * sizeof(float)));
  if (stream.measuring()) return;
  if (rows * width > 0) {
    const BackwardDots dots{address<float>(to.gate_dots.bias), address<float>(to.up_dots.bias),
                            partial, chunks.size};
    packed = packed && fits_packs(to.gate_dots, kPack) && fits_packs(to.up_dots, kPack);
    with_pack<kPack>(packed, [&]<int N>(Constant<N>) {
      const dim3 grid(static_cast<unsigned>(sum_tiles(width, N)),
                      static_cast<unsigned>(chunks.count));
      backward_rows_with_dots<T, N><<<grid, kSumThreads, 0, native(stream)>>>(x, dots, rows, width);
    });
    check_launch("swiglu_backward");
  }
  sum_partial_dots(to.gate_dots, to.up_dots, {partial, chunks.count, 2 * width, width}, stream);
}

}  // namespace

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, Stream& stream) {
  if (gate.numel() == 0) return;
  const int64_t rows = gate.dim(0), width = gate.dim(1);
  for_element_type(gate.dtype(), [&]<class T>(T*) {
    constexpr int kPack = kPackSize<T>;
    with_tiles<kPack>(fit_packs(width, kPack, y, gate, up), ceil_div(rows, kForwardRows), width,
                      [&]<int N>(Constant<N>, int packs, unsigned blocks) {
                        forward_rows<T, N><<<blocks, kTilePacks, 0, native(stream)>>>(
                            rows_of<T>(y), rows_of<const T>(gate), rows_of<const T>(up), rows,
                            packs);
                      });
  });
  check_launch("swiglu");
}

void swiglu_backward(const SwigluGradients& to, const Tensor& dy, const Tensor& gate,
                     const Tensor& up, Stream& stream) {
  const int64_t rows = gate.dim(0), width = gate.dim(1);
  for_element_type(gate.dtype(), [&]<class T>(T*) {
    constexpr int kPack = kPackSize<T>;
    const BackwardRows<T> x{rows_of<T>(to.dgate), rows_of<T>(to.dup),     rows_of<T>(to.inner),
                            rows_of<const T>(dy), rows_of<const T>(gate), rows_of<const T>(up)};
    const bool packed = fit_packs(width, kPack, to.dgate, to.dup, to.inner, dy, gate, up);
    if (to.gate_dots.defined() || to.up_dots.defined()) {
      return backward_with_dots(to, x, gate.shape(), packed, stream);
    }
    if (stream.measuring() || gate.numel() == 0) return;
    with_tiles<kPack>(packed, ceil_div(rows, kBackwardRows), width,
                      [&]<int N>(Constant<N>, int packs, unsigned blocks) {
                        backward_rows<T, N>
                            <<<blocks, kTilePacks, 0, native(stream)>>>(x, rows, packs);
                      });
    check_launch("swiglu_backward");
  });
}

}  // namespace rankwise::cuda
