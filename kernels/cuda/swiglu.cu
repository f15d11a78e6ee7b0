// SPDX-License-Identifier: Apache-2.0
// SwiGLU on CUDA: y = silu(gate) * up, silu(x) = x * sigmoid(x)
//   dgate = dy * up * sigmoid(gate) * (1 + gate * (1 - sigmoid(gate))), dup = dy * silu(gate)
// A thread owns the same columns of a few rows, reads them all, then writes them: the outputs may
// be the inputs.
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/swiglu.h"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kForwardRows = 4;
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

// Blocks walk the row groups of one column segment after the other segments of the same group.
struct Place {
  int64_t row;     // first of the group
  int64_t column;  // first of the pack
  bool inside;
};

template <int N, int kRows>
__device__ Place place_of_thread(int packs, int segments) {
  const int pack = static_cast<int>(blockIdx.x % segments) * kThreads + threadIdx.x;
  return {int64_t{blockIdx.x / segments} * kRows, int64_t{pack} * N, pack < packs};
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    forward_rows(Rows<T> y, Rows<const T> gate, Rows<const T> up, int64_t rows, int packs,
                 int segments) {
  const Place place = place_of_thread<N, kForwardRows>(packs, segments);
  if (!place.inside) return;
  Pack<T, N> g[kForwardRows], u[kForwardRows];
#pragma unroll
  for (int i = 0; i < kForwardRows; ++i) {
    if (place.row + i >= rows) break;
    g[i] = load_pack<N>(gate[place.row + i] + place.column);
    u[i] = load_pack<N>(up[place.row + i] + place.column);
  }
#pragma unroll
  for (int i = 0; i < kForwardRows; ++i) {
    if (place.row + i >= rows) break;
    Pack<T, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float x = to_float(g[i].v[k]);
      out.v[k] = from_float<T>(x * sigmoid<T>(x) * to_float(u[i].v[k]));
    }
    store_pack(y[place.row + i] + place.column, out);
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
__global__ void __launch_bounds__(kThreads)
    backward_rows(BackwardRows<T> x, int64_t rows, int packs, int segments) {
  const Place place = place_of_thread<N, kBackwardRows>(packs, segments);
  if (!place.inside) return;
  Pack<T, N> g[kBackwardRows], u[kBackwardRows], d[kBackwardRows];
#pragma unroll
  for (int i = 0; i < kBackwardRows; ++i) {
    if (place.row + i >= rows) break;
    g[i] = load_pack<N>(x.gate[place.row + i] + place.column);
    u[i] = load_pack<N>(x.up[place.row + i] + place.column);
    d[i] = load_pack<N>(x.dy[place.row + i] + place.column);
  }
#pragma unroll
  for (int i = 0; i < kBackwardRows; ++i) {
    if (place.row + i >= rows) break;
    differentiate(g[i], u[i], d[i]);
    store_pack(x.dgate[place.row + i] + place.column, g[i]);
    store_pack(x.dup[place.row + i] + place.column, u[i]);
    if (x.inner.data != nullptr) store_pack(x.inner[place.row + i] + place.column, d[i]);
  }
}

// Calls f with the constant N, the packs of a row, and the grid's segments and blocks.
template <class T, class F>
void with_grid(const Tensor& gate, bool packed, int rows_per_block, F&& f) {
  const auto with_pack = [&]<int N>(std::integral_constant<int, N> pack) {
    const int64_t packs = gate.dim(1) / N;
    const int64_t segments = ceil_div(packs, kThreads);
    const int64_t blocks = segments * ceil_div(gate.dim(0), rows_per_block);
    f(pack, static_cast<int>(packs), static_cast<int>(segments), static_cast<unsigned>(blocks));
  };
  if (packed) {
    with_pack(std::integral_constant<int, kPackSize<T>>{});
  } else {
    with_pack(std::integral_constant<int, 1>{});
  }
}

template <class T, class... Tensors>
bool all_fit_packs(const Tensors&... x) {
  return (fits_packs(x, x.dim(1), kPackSize<T>) && ...);
}

}  // namespace

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, Stream& stream) {
  if (gate.numel() == 0) return;
  for_element_type(gate.dtype(), [&]<class T>(T*) {
    with_grid<T>(
        gate, all_fit_packs<T>(y, gate, up), kForwardRows,
        [&]<int N>(std::integral_constant<int, N>, int packs, int segments, unsigned blocks) {
          forward_rows<T, N><<<blocks, kThreads, 0, native(stream)>>>(
              rows_of<T>(y), rows_of<const T>(gate), rows_of<const T>(up), gate.dim(0), packs,
              segments);
        });
  });
  check_launch("swiglu");
}

void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& inner, const Tensor& dy,
                     const Tensor& gate, const Tensor& up, Stream& stream) {
  if (gate.numel() == 0) return;
  for_element_type(gate.dtype(), [&]<class T>(T*) {
    const BackwardRows<T> x{rows_of<T>(dgate),    rows_of<T>(dup),        rows_of<T>(inner),
                            rows_of<const T>(dy), rows_of<const T>(gate), rows_of<const T>(up)};
    const bool packed =
        all_fit_packs<T>(dgate, dup, dy, gate, up) && (!inner.defined() || all_fit_packs<T>(inner));
    with_grid<T>(
        gate, packed, kBackwardRows,
        [&]<int N>(std::integral_constant<int, N>, int packs, int segments, unsigned blocks) {
          backward_rows<T, N>
              <<<blocks, kThreads, 0, native(stream)>>>(x, gate.dim(0), packs, segments);
        });
  });
  check_launch("swiglu_backward");
}

}  // namespace rankwise::cuda
