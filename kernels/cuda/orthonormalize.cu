// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/orthonormalize.h"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    check_lengths_kernel(float* failed, const float* lengths, int64_t rank) {
  __shared__ float shared[32];
  float longest = 0.0f;
  for (int64_t j = threadIdx.x; j < rank; j += kThreads) longest = fmaxf(longest, lengths[j]);
  longest = block_reduce(longest, 0.0f, shared, [](float a, float b) { return fmaxf(a, b); });
  // Comparisons that are false for NaN.
  float bad = lengths[rank] >= kLowestPivot ? 0.0f : 1.0f;
  for (int64_t j = threadIdx.x; j < rank; j += kThreads) {
    if (!(lengths[j] > kShortest * longest)) bad = 1.0f;
  }
  bad = block_sum(bad, shared);
  if (threadIdx.x == 0) *failed = bad > 0.0f ? 1.0f : 0.0f;
}

__global__ void __launch_bounds__(kThreads)
    copy_unless_failed_kernel(float* to, const float* from, const float* failed, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count && *failed == 0.0f) to[i] = from[i];
}

// N elements per thread, at the end one after the other.
template <int N>
__global__ void __launch_bounds__(kThreads)
    split_in_halves_kernel(bf16* high, bf16* low, const float* x, int64_t count) {
  const auto move = [&]<int M>(Constant<M>, int64_t i) {
    const Pack<float, M> values = load_pack<M>(x + i);
    Pack<bf16, M> above, below;
#pragma unroll
    for (int k = 0; k < M; ++k) {
      above.v[k] = __float2bfloat16_rn(values.v[k]);
      below.v[k] = __float2bfloat16_rn(values.v[k] - __bfloat162float(above.v[k]));
    }
    store_pack(high + i, above);
    store_pack(low + i, below);
  };
  const int64_t begin = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (begin + N <= count) return move(Constant<N>(), begin);
  for (int64_t i = begin; i < count; ++i) move(Constant<1>(), i);
}

unsigned blocks_for(int64_t count) { return static_cast<unsigned>(ceil_div(count, kThreads)); }

}  // namespace

void check_lengths(const Tensor& failed, const Tensor& lengths, Stream& stream) {
  check_lengths_kernel<<<1, kThreads, 0, native(stream)>>>(
      failed.data<float>(), lengths.data<float>(), lengths.numel() - 1);
  check_launch("check_lengths");
}

void split_in_halves(const Tensor& high, const Tensor& low, const Tensor& x, Stream& stream) {
  const bool aligned =
      is_aligned(high.raw(), 8) && is_aligned(low.raw(), 8) && is_aligned(x.raw(), 16);
  with_pack<4>(aligned, [&]<int N>(Constant<N>) {
    split_in_halves_kernel<N><<<blocks_for(ceil_div(x.numel(), N)), kThreads, 0, native(stream)>>>(
        address<bf16>(high), address<bf16>(low), x.data<float>(), x.numel());
  });
  check_launch("split_in_halves");
}

void copy_unless_failed(const Tensor& to, const Tensor& from, const Tensor& failed,
                        Stream& stream) {
  copy_unless_failed_kernel<<<blocks_for(to.numel()), kThreads, 0, native(stream)>>>(
      to.data<float>(), from.data<float>(), failed.data<float>(), to.numel());
  check_launch("copy_unless_failed");
}

}  // namespace rankwise::cuda
