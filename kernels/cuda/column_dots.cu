// SPDX-License-Identifier: Apache-2.0
// Sums over tokens on CUDA: dots[n] = sum_t dy[t][n] * (y[t][n] - minus[t][n] - bias[n])
#include "kernels/cuda/column_dots.cuh"

namespace rankwise::cuda {
namespace {

template <class T>
struct DotRows {
  Rows<const T> dy, y, minus;
  const float* bias;  // may be null
};

// partial (chunks, width): sums over the rows of a chunk.
template <class T, int N, bool kMinus>
__global__ void __launch_bounds__(kSumThreads)
    sum_chunk_dots(float* partial, DotRows<T> x, int64_t rows, int64_t width, int64_t chunk_rows) {
  __shared__ SumsOfWarps<N> of_warp;
  const SumPlace<N> place(blockIdx.x, rows, chunk_rows);
  const int64_t column = place.column;
  Pack<float, N> sum = {};
  if (column < width) {
    const Pack<float, N> bias = load_or_zeros<N>(x.bias, column);
#pragma unroll 4
    for (int64_t row = place.begin; row < place.end; row += kSumWarps) {
      const Pack<T, N> d = load_pack<N>(x.dy[row] + column);
      const Pack<T, N> y = load_pack<N>(x.y[row] + column);
      Pack<T, N> less;
      if constexpr (kMinus) less = load_pack<N>(x.minus[row] + column);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        float value = to_float(y.v[k]);
        if constexpr (kMinus) value -= to_float(less.v[k]);
        sum.v[k] += to_float(d.v[k]) * (value - bias.v[k]);
      }
    }
  }
  float* const out = partial + blockIdx.y * width + place.first;
  add_warps<N>(sum, of_warp, [&](int c, float total) {
    if (place.first + c < width) out[c] = total;
  });
}

// The columns of `first` lie before those of `second`; either may be null.
__global__ void __launch_bounds__(kSumThreads)
    sum_chunks(float* first, const float* first_m, float* second, const float* second_m,
               PartialDots dots) {
  __shared__ SumsOfWarps<1> of_warp;
  const int64_t column = int64_t{blockIdx.x} * 32 + threadIdx.x % 32;
  const bool is_first = column < dots.split;
  float* const to = is_first ? first : second;
  const float* const m = is_first ? first_m : second_m;
  const bool wanted = column < dots.width && to != nullptr;
  Pack<float, 1> sum = {};
  if (wanted) {
#pragma unroll 8
    for (int64_t chunk = threadIdx.x / 32; chunk < dots.chunks; chunk += kSumWarps) {
      sum.v[0] += dots.partial[chunk * dots.width + column];
    }
  }
  add_warps<1>(sum, of_warp, [&](int, float total) {
    if (!wanted) return;
    const int64_t place = is_first ? column : column - dots.split;
    if (m == nullptr) {
      to[place] = total;
    } else if (m[place] != 0.0f) {
      to[place] += total / m[place];
    }
  });
}

}  // namespace

void sum_partial_dots(const ColumnDots& first, const ColumnDots& second, const PartialDots& dots,
                      Stream& stream) {
  if (dots.width == 0) return;
  sum_chunks<<<static_cast<unsigned>(ceil_div(dots.width, 32)), kSumThreads, 0, native(stream)>>>(
      address<float>(first.dots), address<float>(first.m), address<float>(second.dots),
      address<float>(second.m), dots);
  check_launch("sum_partial_dots");
}

void column_dots(const ColumnDots& to, const Tensor& dy, const Tensor& y, const Tensor& minus,
                 Stream& stream) {
  const int64_t rows = dy.dim(0), width = dy.dim(1);
  for_element_type(dy.dtype(), [&]<class T>(T*) {
    constexpr int kPack = kPackSize<T>;
    const SumChunks chunks(rows, sum_tiles(width, kPack));
    auto* partial = static_cast<float*>(
        stream.scratch(static_cast<size_t>(chunks.count * width) * sizeof(float)));
    if (stream.measuring()) return;
    const DotRows<T> x{rows_of<const T>(dy), rows_of<const T>(y), rows_of<const T>(minus),
                       address<float>(to.bias)};
    const bool packed = fit_packs(width, kPack, dy, y, minus) && fits_packs(to, kPack);
    if (dy.numel() > 0) {
      with_pack<kPack>(packed, [&]<int N>(Constant<N>) {
        const dim3 grid(static_cast<unsigned>(sum_tiles(width, N)),
                        static_cast<unsigned>(chunks.count));
        const auto kernel =
            minus.defined() ? sum_chunk_dots<T, N, true> : sum_chunk_dots<T, N, false>;
        kernel<<<grid, kSumThreads, 0, native(stream)>>>(partial, x, rows, width, chunks.size);
      });
      check_launch("column_dots");
    }
    sum_partial_dots(to, {}, {partial, chunks.count, width, width}, stream);
  });
}

}  // namespace rankwise::cuda
