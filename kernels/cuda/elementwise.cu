// SPDX-License-Identifier: Apache-2.0
// y[r, c] = f(y[r, c], x[r, c], r, c): one kernel that moves 16 bytes at a time, and the functions.
#include <algorithm>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/philox.cuh"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPacksPerThread = 2;

struct Extent {
  int64_t rows, width, y_stride, x_stride;
};

Extent extent_of_rows(const Tensor& y, const Tensor& x) {
  RW_ASSERT(x.rank() >= 2 && y.rank() >= 2 && x.dim(0) == y.dim(0), "y {}, x {}",
            to_string(y.shape()), to_string(x.shape()));
  return {y.dim(0), y.numel() / std::max<int64_t>(1, y.dim(0)), y.row_stride(), x.row_stride()};
}

// Contiguous tensors are one long row.
Extent extent_of(const Tensor& y, const Tensor& x) {
  if (y.is_contiguous() && x.is_contiguous()) return {1, y.numel(), 0, 0};
  return extent_of_rows(y, x);
}

__device__ int64_t quotient(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// f(y, x, row, column) changes a pack y, whose old elements it may read; y and x may be the same
// memory. All loads of a thread come before its stores, so that several are in flight. The last
// pack of a row is moved element by element where the row ends inside it.
template <int N, class Y, class X, class F>
__global__ void __launch_bounds__(kThreads)
    transform(Y* y, const X* x, Extent extent, int64_t packs_per_row, F f) {
  const int64_t first = int64_t{blockIdx.x} * (kThreads * kPacksPerThread) + threadIdx.x;
  Pack<Y, N> ys[kPacksPerThread];
  Pack<X, N> xs[kPacksPerThread];
  int64_t row[kPacksPerThread];
  int64_t column[kPacksPerThread];
#pragma unroll
  for (int k = 0; k < kPacksPerThread; ++k) {
    const int64_t pack = first + k * kThreads;
    row[k] = extent.rows == 1 ? 0 : quotient(pack, packs_per_row);
    column[k] = (pack - row[k] * packs_per_row) * N;
    if (row[k] >= extent.rows || column[k] + N > extent.width) continue;
    ys[k] = load_pack<N>(y + row[k] * extent.y_stride + column[k]);
    xs[k] = load_pack<N>(x + row[k] * extent.x_stride + column[k]);
  }
#pragma unroll
  for (int k = 0; k < kPacksPerThread; ++k) {
    if (row[k] >= extent.rows) continue;
    Y* to = y + row[k] * extent.y_stride;
    if (column[k] + N <= extent.width) {
      f(ys[k], xs[k], row[k], column[k]);
      store_pack(to + column[k], ys[k]);
      continue;
    }
#pragma unroll 1
    for (int64_t c = column[k]; c < extent.width; ++c) {
      Pack<Y, 1> one{{to[c]}};
      f(one, Pack<X, 1>{{x[row[k] * extent.x_stride + c]}}, row[k], c);
      to[c] = one.v[0];
    }
  }
}

template <class Y, class X, class F>
void launch(const char* op, Y* y, const X* x, const Extent& extent, const F& f, Stream& stream) {
  if (extent.rows * extent.width == 0) return;
  constexpr int kPack = std::min(kPackSize<Y>, kPackSize<X>);
  const bool aligned = is_aligned(y, kPack * sizeof(Y)) && is_aligned(x, kPack * sizeof(X)) &&
                       extent.y_stride % kPack == 0 && extent.x_stride % kPack == 0;
  with_pack<kPack>(aligned, [&]<int N>(Constant<N>) {
    const int64_t packs_per_row = ceil_div(extent.width, N);
    const int64_t blocks = ceil_div(extent.rows * packs_per_row, kThreads * kPacksPerThread);
    transform<N><<<static_cast<unsigned>(blocks), kThreads, 0, native(stream)>>>(y, x, extent,
                                                                                 packs_per_row, f);
  });
  check_launch(op);
}

// One operand, F32 or BF16.
template <class F>
void launch_unary(const char* op, const Tensor& y, const Extent& extent, const F& f,
                  Stream& stream) {
  for_element_type(
      y.dtype(), [&]<class Y>(Y*) { launch(op, address<Y>(y), address<Y>(y), extent, f, stream); });
}

// Two operands, each F32 or BF16.
template <class F>
void launch_binary(const char* op, const Tensor& y, const Tensor& x, const Extent& extent,
                   const F& f, Stream& stream) {
  for_element_type(y.dtype(), [&]<class Y>(Y*) {
    for_element_type(x.dtype(), [&]<class X>(X*) {
      launch(op, address<Y>(y), address<X>(x), extent, f, stream);
    });
  });
}

struct Fill {
  float value;
  template <int N>
  __device__ void operator()(Pack<float, N>& y, const Pack<float, N>&, int64_t, int64_t) const {
#pragma unroll
    for (int i = 0; i < N; ++i) y.v[i] = value;
  }
};

struct Assign {
  template <class Y, int N>
  __device__ void operator()(Pack<Y, N>& y, const Pack<Y, N>& x, int64_t, int64_t) const {
    y = x;
  }
  template <class Y, class X, int N>
  __device__ void operator()(Pack<Y, N>& y, const Pack<X, N>& x, int64_t, int64_t) const {
#pragma unroll
    for (int i = 0; i < N; ++i) y.v[i] = from_float<Y>(to_float(x.v[i]));
  }
};

struct Add {
  template <class Y, class X, int N>
  __device__ void operator()(Pack<Y, N>& y, const Pack<X, N>& x, int64_t, int64_t) const {
#pragma unroll
    for (int i = 0; i < N; ++i) y.v[i] = from_float<Y>(to_float(y.v[i]) + to_float(x.v[i]));
  }
};

struct Scale {
  float factor;
  template <int N>
  __device__ void operator()(Pack<float, N>& y, const Pack<float, N>&, int64_t, int64_t) const {
#pragma unroll
    for (int i = 0; i < N; ++i) y.v[i] *= factor;
  }
};

struct AddBias {
  const float* bias;
  template <class Y, class X, int N>
  __device__ void operator()(Pack<Y, N>& y, const Pack<X, N>&, int64_t, int64_t column) const {
#pragma unroll
    for (int i = 0; i < N; ++i) y.v[i] = from_float<Y>(to_float(y.v[i]) + __ldg(bias + column + i));
  }
};

struct Dropout {
  Philox random;
  MaskPlace place;
  float p;
  float factor;

  template <class Y, class X, int N>
  __device__ void operator()(Pack<Y, N>& y, const Pack<X, N>& x, int64_t row,
                             int64_t column) const {
    const uint64_t index = place.first + static_cast<uint64_t>(row * place.width + column);
    const auto keep = [&](int i, uint32_t word) {
      y.v[i] = from_float<Y>(Philox::uniform(word) >= p ? to_float(x.v[i]) * factor : 0.0f);
    };
    if constexpr (N % 4 == 0) {
      if (index % 4 == 0) {
#pragma unroll
        for (int begin = 0; begin < N; begin += 4) {
          uint32_t words[4];
          random.draw((index + begin) / 4, words);
#pragma unroll
          for (int i = 0; i < 4; ++i) keep(begin + i, words[i]);
        }
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i) keep(i, random.bits(index + i));
  }
};

// Box-Muller in double, as runtime/rng.cc.
__device__ void normal_pair(uint32_t word0, uint32_t word1, float& first, float& second) {
  const double radius = sqrt(-2.0 * log((static_cast<double>(word0) + 1.0) * 0x1p-32));
  double sine;
  double cosine;
  sincospi(static_cast<double>(word1) * 0x1p-31, &sine, &cosine);
  first = static_cast<float>(radius * cosine);
  second = static_cast<float>(radius * sine);
}

struct Normal {
  Philox random;
  float mean;
  float stddev;

  template <class Y>
  __device__ Y scaled(float normal) const {
    return from_float<Y>(__fadd_rn(mean, __fmul_rn(stddev, normal)));
  }
  template <class Y, class X, int N>
  __device__ void operator()(Pack<Y, N>& y, const Pack<X, N>&, int64_t, int64_t column) const {
    const auto index = static_cast<uint64_t>(column);
    if constexpr (N % 2 == 0) {  // columns of packs are multiples of N
#pragma unroll
      for (int i = 0; i < N; i += 2) {
        float a, b;
        normal_pair(random.bits(index + i), random.bits(index + i + 1), a, b);
        y.v[i] = scaled<Y>(a);
        y.v[i + 1] = scaled<Y>(b);
      }
    } else {
      float a, b;
      normal_pair(random.bits(index & ~1ull), random.bits(index | 1ull), a, b);
      y.v[0] = scaled<Y>(index % 2 == 0 ? a : b);
    }
  }
};

struct RandomBytes {
  Philox random;
  template <int N>
  __device__ void operator()(Pack<uint8_t, N>& y, const Pack<uint8_t, N>&, int64_t,
                             int64_t column) const {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      y.v[i] = static_cast<uint8_t>(random.bits(static_cast<uint64_t>(column + i)));
    }
  }
};

}  // namespace

void fill(const Tensor& x, float value, Stream& stream) {
  if (x.numel() == 0) return;
  if (value == 0.0f) {
    const auto bytes = static_cast<size_t>(x.bytes());
    return check(cudaMemsetAsync(x.raw(), 0, bytes, native(stream)), "fill");
  }
  auto* to = x.data<float>();
  launch("fill", to, to, extent_of(x, x), Fill{value}, stream);
}

void copy(const Tensor& y, const Tensor& x, Stream& stream) {
  if (x.numel() == 0) return;
  if (!x.is_contiguous() || !y.is_contiguous()) return cast(y, x, stream);
  check(cudaMemcpyAsync(y.raw(), x.raw(), static_cast<size_t>(x.bytes()), cudaMemcpyDeviceToDevice,
                        native(stream)),
        "copy");
}

void cast(const Tensor& y, const Tensor& x, Stream& stream) {
  launch_binary("cast", y, x, extent_of(y, x), Assign{}, stream);
}

void add(const Tensor& y, const Tensor& x, Stream& stream) {
  launch_binary("add", y, x, extent_of(y, x), Add{}, stream);
}

void scale(const Tensor& x, float factor, Stream& stream) {
  auto* to = x.data<float>();
  launch("scale", to, to, extent_of(x, x), Scale{factor}, stream);
}

void add_bias(const Tensor& y, const Tensor& bias, Stream& stream) {
  launch_unary("add_bias", y, extent_of_rows(y, y), AddBias{bias.data<float>()}, stream);
}

void dropout(const Tensor& y, const Tensor& x, float p, const Rng& rng, const MaskPlace& place,
             Stream& stream) {
  // Only whole rows are neighbours in the stream of random numbers.
  const Extent extent = x.dim(1) == place.width ? extent_of(y, x) : extent_of_rows(y, x);
  launch_binary("dropout", y, x, extent, Dropout{Philox(rng), place, p, 1.0f / (1.0f - p)}, stream);
}

void fill_normal(const Tensor& x, float mean, float stddev, const Rng& rng, Stream& stream) {
  launch_unary("fill_normal", x, extent_of(x, x), Normal{Philox(rng), mean, stddev}, stream);
}

void fill_random_bytes(const Tensor& x, const Rng& rng, Stream& stream) {
  auto* to = x.data<uint8_t>();
  launch("fill_random_bytes", to, to, extent_of(x, x), RandomBytes{Philox(rng)}, stream);
}

}  // namespace rankwise::cuda
