// SPDX-License-Identifier: Apache-2.0
// SwiGLU on CUDA: y = silu(gate) * up, silu(x) = x * sigmoid(x)
//   dgate = dy * up * sigmoid(gate) * (1 + gate * (1 - sigmoid(gate))), dup = dy * silu(gate)
// A thread owns the same columns of a few rows, reads them all, then writes them: the outputs may
// be the inputs.
#include "kernels/cuda/rows.cuh"
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

// dgate replaces g, dup replaces u; silu(gate) * up replaces d.
template <class T, int N>
__device__ void differentiate(Pack<T, N>& g, Pack<T, N>& u, Pack<T, N>& d) {
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float x = to_float(g.v[k]);
    const float from_up = to_float(d.v[k]) * to_float(u.v[k]);
    const float from_gate = to_float(d.v[k]) * x;
    const float s = sigmoid<T>(x);
    d.v[k] = from_float<T>(x * s * to_float(u.v[k]));
    g.v[k] = from_float<T>(from_up * s * (1.0f + x * (1.0f - s)));
    u.v[k] = from_float<T>(from_gate * s);
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
    differentiate(g[i], u[i], d[i]);
    store_pack(x.dgate[row + i] + tile.column, g[i]);
    store_pack(x.dup[row + i] + tile.column, u[i]);
    if (x.inner.data != nullptr) store_pack(x.inner[row + i] + tile.column, d[i]);
  }
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

void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& inner, const Tensor& dy,
                     const Tensor& gate, const Tensor& up, Stream& stream) {
  if (gate.numel() == 0) return;
  const int64_t rows = gate.dim(0), width = gate.dim(1);
  for_element_type(gate.dtype(), [&]<class T>(T*) {
    constexpr int kPack = kPackSize<T>;
    const BackwardRows<T> x{rows_of<T>(dgate),    rows_of<T>(dup),        rows_of<T>(inner),
                            rows_of<const T>(dy), rows_of<const T>(gate), rows_of<const T>(up)};
    with_tiles<kPack>(
        fit_packs(width, kPack, dgate, dup, inner, dy, gate, up), ceil_div(rows, kBackwardRows),
        width, [&]<int N>(Constant<N>, int packs, unsigned blocks) {
          backward_rows<T, N><<<blocks, kTilePacks, 0, native(stream)>>>(x, rows, packs);
        });
  });
  check_launch("swiglu_backward");
}

}  // namespace rankwise::cuda
