// SPDX-License-Identifier: Apache-2.0
// RMSNorm on CUDA, one block per row:
//   y = x * inv_rms * weight, inv_rms = 1 / sqrt(mean(x^2) + eps)
//   dx (+)= inv_rms * dy * weight - x * inv_rms^3 * mean(dy * weight * x)
//   dweight += sum_t dy * x * inv_rms
// Of bf16, x * inv_rms and the weight are rounded before they are multiplied (kernels/rms_norm.h).
// A row is read once and held in registers over the block sum. The weights stay in the first-level
// cache from row to row.
#include <algorithm>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {
namespace {

// Packs of N elements: a thread holds P of them in registers; P = 0: any number, read again at each
// use. The widest packs leave fewer registers for threads.
template <int N, int P>
inline constexpr int kMaxThreads = P == 1 || P == 2 ? 256 : (P == 4 && N == 8 ? 512 : 1024);

// f(i, index) for the packs of this thread; i counts them and is a constant when they are held.
template <int P, class F>
__device__ void for_own_packs(int packs, F&& f) {
  if constexpr (P == 0) {
    for (int index = threadIdx.x; index < packs; index += blockDim.x) f(0, index);
  } else {
#pragma unroll
    for (int i = 0; i < P; ++i) {
      const int index = threadIdx.x + i * blockDim.x;
      if (index < packs) f(i, index);
    }
  }
}

// The packs of a row that belong to this thread. All loads are issued at once.
template <class T, int N, int P>
class OwnPacks {
 public:
  __device__ OwnPacks(const T* row, int packs) : row_(row) {
    if constexpr (P > 0) {
      for_own_packs<P>(packs, [&](int i, int index) { held_[i] = load(index); });
    }
  }
  __device__ Pack<T, N> at(int i, int index) const {
    if constexpr (P > 0) {
      return held_[i];
    } else {
      return load(index);
    }
  }

 private:
  __device__ Pack<T, N> load(int index) const { return load_pack<N>(row_ + int64_t{index} * N); }

  const T* row_;
  Pack<T, N> held_[P > 0 ? P : 1];
};

template <class T>
__device__ float rounded(float x) {
  return to_float(from_float<T>(x));
}

template <class T, int N, int P>
__global__ void __launch_bounds__(kMaxThreads<N, P>)
    normalise_row(Rows<T> y, float* inv_rms, Rows<const T> x, const float* __restrict__ weight,
                  int width, float eps) {
  __shared__ float shared[32];
  const int64_t t = blockIdx.x;
  const int packs = width / N;
  const OwnPacks<T, N, P> in(x[t], packs);
  float squares = 0.0f;
  for_own_packs<P>(packs, [&](int i, int index) {
    const Pack<T, N> value = in.at(i, index);
#pragma unroll
    for (int k = 0; k < N; ++k) squares += to_float(value.v[k]) * to_float(value.v[k]);
  });
  squares = block_sum(squares, shared);
  const float inv = 1.0f / sqrtf(squares / static_cast<float>(width) + eps);
  if (threadIdx.x == 0) inv_rms[t] = inv;
  T* out = y[t];
  for_own_packs<P>(packs, [&](int i, int index) {
    const Pack<T, N> value = in.at(i, index);
    const Pack<float, N> scale = load_pack<N>(weight + int64_t{index} * N);
    Pack<T, N> result;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      result.v[k] = from_float<T>(rounded<T>(to_float(value.v[k]) * inv) * rounded<T>(scale.v[k]));
    }
    store_pack(out + int64_t{index} * N, result);
  });
}

// dx may be dy: a thread writes only places that it alone has read.
template <class T, int N, int P>
__global__ void __launch_bounds__(kMaxThreads<N, P>)
    input_gradient_row(Rows<T> dx, Rows<const T> dy, Rows<const T> x,
                       const float* __restrict__ weight, const float* __restrict__ inv_rms,
                       int width, bool accumulate) {
  __shared__ float shared[32];
  const int64_t t = blockIdx.x;
  const int packs = width / N;
  const OwnPacks<T, N, P> gradient(dy[t], packs);
  const OwnPacks<T, N, P> in(x[t], packs);
  T* out = dx[t];
  const OwnPacks<T, N, P> before(out, accumulate ? packs : 0);
  const float inv = inv_rms[t];
  float projection = 0.0f;  // sum of dy * weight * x
  for_own_packs<P>(packs, [&](int i, int index) {
    const Pack<T, N> d = gradient.at(i, index);
    const Pack<T, N> value = in.at(i, index);
    const Pack<float, N> scale = load_pack<N>(weight + int64_t{index} * N);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      projection += to_float(d.v[k]) * rounded<T>(scale.v[k]) * to_float(value.v[k]);
    }
  });
  projection = block_sum(projection, shared);
  const float along_x = inv * inv * inv * projection / static_cast<float>(width);
  for_own_packs<P>(packs, [&](int i, int index) {
    const int64_t offset = int64_t{index} * N;
    const Pack<T, N> d = gradient.at(i, index);
    const Pack<T, N> value = in.at(i, index);
    const Pack<float, N> scale = load_pack<N>(weight + offset);
    Pack<T, N> result;
    if (accumulate) result = before.at(i, index);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float sum = inv * to_float(d.v[k]) * rounded<T>(scale.v[k]) - along_x * to_float(value.v[k]);
      if (accumulate) sum += to_float(result.v[k]);
      result.v[k] = from_float<T>(sum);
    }
    store_pack(out + offset, result);
  });
}

constexpr int kColumnThreads = 256;

// dweight is summed over chunks of rows, then over the chunks, each in order.
struct RowChunks {
  explicit RowChunks(int64_t rows) : size(std::max<int64_t>(64, ceil_div(rows, 256))) {
    count = ceil_div(rows, size);
  }
  int64_t size;
  int64_t count;
};

// partial[chunk, c] = sum over the rows of the chunk of dy * x * inv_rms.
template <class T>
__global__ void weight_gradient_chunk(float* partial, Rows<const T> dy, Rows<const T> x,
                                      const float* inv_rms, int64_t rows, int64_t rows_per_chunk,
                                      int width) {
  const int tiles = (width + kColumnThreads - 1) / kColumnThreads;
  const int c = static_cast<int>(blockIdx.x % tiles) * kColumnThreads + threadIdx.x;
  if (c >= width) return;
  const int64_t chunk = blockIdx.x / tiles;
  const int64_t begin = chunk * rows_per_chunk;
  const int64_t end = min(begin + rows_per_chunk, rows);
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t t = begin; t < end; ++t) sum += inv_rms[t] * to_float(dy[t][c]) * to_float(x[t][c]);
  partial[chunk * width + c] = sum;
}

template <class T>
void add_weight_gradient(const Tensor& dweight, float* partial, const Tensor& dy, const Tensor& x,
                         const Tensor& inv_rms, Stream& stream) {
  const RowChunks chunks(x.dim(0));
  const int width = static_cast<int>(x.dim(1));
  const auto tiles = static_cast<unsigned>(ceil_div(width, kColumnThreads));
  weight_gradient_chunk<<<static_cast<unsigned>(chunks.count) * tiles, kColumnThreads, 0,
                          native(stream)>>>(partial, rows_of<const T>(dy), rows_of<const T>(x),
                                            address<float>(inv_rms), x.dim(0), chunks.size, width);
  check_launch("rms_norm_backward");
  add_chunks(address<float>(dweight), partial, chunks.count, width, stream);
}

template <int N, int P, class F>
bool try_row_plan(int64_t packs, F&& f) {
  if (P > 0 && packs > P * kMaxThreads<N, P>) return false;
  const int64_t warps = P > 0 ? ceil_div(packs, P * 32) : kMaxThreads<N, P> / 32;
  f(Constant<N>{}, Constant<P>{}, static_cast<int>(32 * warps));
  return true;
}

// Calls f with the constants N and P for these activations and the threads of a block. A pack of
// weights is as many elements as one of activations.
template <class T, class F, class... Activations>
void with_row_plan(F&& f, const Tensor& weight, const Activations&... x) {
  constexpr int kPack = kPackSize<T>;
  const int64_t width = weight.numel();
  const bool packed =
      fit_packs(width, kPack, x...) && is_aligned(weight.raw(), kPack * sizeof(float));
  with_pack<kPack>(packed, [&]<int N>(Constant<N>) {
    const int64_t packs = width / N;
    try_row_plan<N, 1>(packs, f) || try_row_plan<N, 2>(packs, f) || try_row_plan<N, 4>(packs, f) ||
        try_row_plan<N, 0>(packs, f);
  });
}

}  // namespace

void rms_norm(const Tensor& y, const Tensor& inv_rms, const Tensor& x, const Tensor& weight,
              float eps, Stream& stream) {
  if (x.numel() == 0) return;
  for_element_type(x.dtype(), [&]<class T>(T*) {
    const auto launch = [&]<int N, int P>(Constant<N>, Constant<P>, int threads) {
      normalise_row<T, N, P><<<static_cast<unsigned>(x.dim(0)), threads, 0, native(stream)>>>(
          rows_of<T>(y), address<float>(inv_rms), rows_of<const T>(x), address<float>(weight),
          static_cast<int>(x.dim(1)), eps);
    };
    with_row_plan<T>(launch, weight, x, y);
  });
  check_launch("rms_norm");
}

void rms_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x,
                       const Tensor& weight, const Tensor& inv_rms, bool accumulate,
                       Stream& stream) {
  if (x.numel() == 0) return;
  float* partial = nullptr;
  if (dweight.defined()) {
    const auto values = static_cast<size_t>(RowChunks(x.dim(0)).count * x.dim(1));
    partial = static_cast<float*>(stream.scratch(values * sizeof(float)));
  }
  if (stream.measuring()) return;
  for_element_type(x.dtype(), [&]<class T>(T*) {
    // Before dx, which may be dy.
    if (dweight.defined()) add_weight_gradient<T>(dweight, partial, dy, x, inv_rms, stream);
    const auto launch = [&]<int N, int P>(Constant<N>, Constant<P>, int threads) {
      input_gradient_row<T, N, P><<<static_cast<unsigned>(x.dim(0)), threads, 0, native(stream)>>>(
          rows_of<T>(dx), rows_of<const T>(dy), rows_of<const T>(x), address<float>(weight),
          address<float>(inv_rms), static_cast<int>(x.dim(1)), accumulate);
    };
    with_row_plan<T>(launch, weight, x, dy, dx);
  });
  check_launch("rms_norm_backward");
}

}  // namespace rankwise::cuda
