// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding on CUDA, in place, q and k in one launch:
//   (low, high) -> (low * cos - high * sin, high * cos + low * sin), high half a head behind low
#include "kernels/cuda/rope.h"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void fill_tables(float* cos, float* sin, const int32_t* positions, const float* inv_freq,
                            int64_t count, int half) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t t = i / half;
  // The angle is rounded to fp32 as on the CPU; sincosf reduces large angles exactly.
  const float angle = __fmul_rn(static_cast<float>(positions[t]), inv_freq[i - t * half]);
  sincosf(angle, &sin[i], &cos[i]);
}

// Heads that a thread turns by the same angles.
constexpr int kHeads = 4;

struct RopeShape {
  int64_t tokens;
  int q_heads;
  int heads;  // of q and k
  int half;   // of a head
  int slots;  // threads along the heads: each turns heads slot, slot + slots, ...
};

template <class T, int N>
__device__ void turn(Pack<T, N>& low, Pack<T, N>& high, const Pack<float, N>& cos,
                     const Pack<float, N>& sin, float sign) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float a = to_float(low.v[i]);
    const float b = to_float(high.v[i]);
    const float s = sign * sin.v[i];
    low.v[i] = from_float<T>(a * cos.v[i] - b * s);
    high.v[i] = from_float<T>(b * cos.v[i] + a * s);
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    turn_heads(Rows<T> q, Rows<T> k, const float* __restrict__ cos, const float* __restrict__ sin,
               RopeShape shape, float sign) {
  const int packs = shape.half / N;
  const int per_token = shape.slots * packs;
  const int64_t item = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t t = item / per_token;
  if (t >= shape.tokens) return;
  const int within = static_cast<int>(item - t * per_token);
  const int slot = within / packs;
  const int begin = within % packs * N;  // in the half of a head
  const Pack<float, N> c = load_pack<N>(cos + t * shape.half + begin);
  const Pack<float, N> s = load_pack<N>(sin + t * shape.half + begin);
  T* const q_row = q[t] + begin;
  T* const k_row = k[t] + begin;
  const auto address_of = [&](int head) {
    return head < shape.q_heads ? q_row + int64_t{head} * 2 * shape.half
                                : k_row + int64_t{head - shape.q_heads} * 2 * shape.half;
  };
  Pack<T, N> low[kHeads], high[kHeads];
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    const int head = slot + i * shape.slots;
    if (head >= shape.heads) continue;
    low[i] = load_pack<N>(address_of(head));
    high[i] = load_pack<N>(address_of(head) + shape.half);
  }
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    const int head = slot + i * shape.slots;
    if (head >= shape.heads) continue;
    turn(low[i], high[i], c, s, sign);
    store_pack(address_of(head), low[i]);
    store_pack(address_of(head) + shape.half, high[i]);
  }
}

}  // namespace

void rope_tables(const Tensor& cos, const Tensor& sin, const Tensor& positions,
                 const Tensor& inv_freq, Stream& stream) {
  const int64_t count = cos.numel();
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(ceil_div(count, kThreads));
  fill_tables<<<blocks, kThreads, 0, native(stream)>>>(
      address<float>(cos), address<float>(sin), address<int32_t>(positions),
      address<float>(inv_freq), count, static_cast<int>(inv_freq.numel()));
  check_launch("rope_tables");
}

void rope(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin, bool inverse,
          Stream& stream) {
  const int64_t half = q.dim(2) / 2;
  const int64_t heads = q.dim(1) + k.dim(1);
  if (q.dim(0) * heads * half == 0) return;
  const RopeShape shape{q.dim(0), static_cast<int>(q.dim(1)), static_cast<int>(heads),
                        static_cast<int>(half), static_cast<int>(ceil_div(heads, kHeads))};
  for_element_type(q.dtype(), [&]<class T>(T*) {
    constexpr int kPack = kPackSize<T>;
    with_pack<kPack>(fit_packs(half, kPack, q, k, cos, sin), [&]<int N>(Constant<N>) {
      const int64_t items = shape.tokens * shape.slots * (half / N);
      turn_heads<T, N>
          <<<static_cast<unsigned>(ceil_div(items, kThreads)), kThreads, 0, native(stream)>>>(
              rows_of<T>(q), rows_of<T>(k), address<float>(cos), address<float>(sin), shape,
              inverse ? -1.0f : 1.0f);
    });
  });
  check_launch("rope");
}

}  // namespace rankwise::cuda
