// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding on CUDA, in place, q and k in one launch:
//   (low, high) -> (low * cos - high * sin, high * cos + low * sin), high half a head behind low
#include "kernels/cuda/column_dots.cuh"
#include "kernels/cuda/rope.h"

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

struct Pair {
  float low, high;
};

__device__ inline Pair turned(float low, float high, float cos, float sin) {
  return {low * cos - high * sin, high * cos + low * sin};
}

template <class T, int N>
__device__ void turn(Pack<T, N>& low, Pack<T, N>& high, const Pack<float, N>& cos,
                     const Pack<float, N>& sin, float sign) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const Pair y = turned(to_float(low.v[i]), to_float(high.v[i]), cos.v[i], sign * sin.v[i]);
    low.v[i] = from_float<T>(y.low);
    high.v[i] = from_float<T>(y.high);
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

void turn_all(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin, float sign,
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
              rows_of<T>(q), rows_of<T>(k), address<float>(cos), address<float>(sin), shape, sign);
    });
  });
  check_launch("rope");
}

// dq with q, or dk with k; x is dx where its sums are not wanted.
template <class T>
struct TurnedBack {
  Rows<T> dx;
  Rows<const T> x;
  const float* bias;  // may be null
  int64_t width;      // heads * D
};

struct BackShape {
  int64_t tokens, chunk_rows;
  unsigned half;
  unsigned q_tiles;  // tiles are of the low halves of the heads, side by side; those of k follow
};

// partial (chunks, widths of q and k): the sums of each chunk of tokens.
template <class T, int N>
__global__ void __launch_bounds__(kSumThreads, 3)
    turn_back_with_dots(float* partial, TurnedBack<T> q, TurnedBack<T> k,
                        const float* __restrict__ cos, const float* __restrict__ sin,
                        BackShape shape) {
  __shared__ SumsOfWarps<N> of_warp;
  const bool is_k = blockIdx.x >= shape.q_tiles;
  const TurnedBack<T> own = is_k ? k : q;
  const SumPlace<N> place(is_k ? blockIdx.x - shape.q_tiles : blockIdx.x, shape.tokens,
                          shape.chunk_rows);
  const unsigned half = shape.half;
  const auto before = [&](int64_t column) {  // low halves of the heads before this
    return static_cast<unsigned>(column) / half * half;
  };
  Pack<float, N> low_sum = {}, high_sum = {};
  if (place.column < own.width / 2) {
    const int64_t column = place.column + before(place.column);
    const Pack<float, N> low_bias = load_or_zeros<N>(own.bias, column);
    const Pack<float, N> high_bias = load_or_zeros<N>(own.bias, column + half);
#pragma unroll 1
    for (int64_t t = place.begin; t < place.end; t += kSumWarps) {
      T* const dx = own.dx[t] + column;
      const T* const x = own.x[t] + column;
      const int64_t angle = t * half + static_cast<unsigned>(place.column) % half;
      Pack<T, N> dlow = load_pack<N>(dx), dhigh = load_pack<N>(dx + half);
      const Pack<T, N> low = load_pack<N>(x), high = load_pack<N>(x + half);
      const Pack<float, N> c = load_pack<N>(cos + angle), s = load_pack<N>(sin + angle);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const Pair d = turned(to_float(dlow.v[i]), to_float(dhigh.v[i]), c.v[i], -s.v[i]);
        const Pair y = turned(to_float(low.v[i]), to_float(high.v[i]), c.v[i], -s.v[i]);
        low_sum.v[i] += d.low * (y.low - low_bias.v[i]);
        high_sum.v[i] += d.high * (y.high - high_bias.v[i]);
        dlow.v[i] = from_float<T>(d.low);
        dhigh.v[i] = from_float<T>(d.high);
      }
      store_pack(dx, dlow);
      store_pack(dx + half, dhigh);
    }
  }
  float* const out = partial + blockIdx.y * (q.width + k.width) + (is_k ? q.width : 0);
  const auto write = [&](int c, float total, int64_t offset) {
    const int64_t column = place.first + c;
    if (column < own.width / 2) out[column + before(column) + offset] = total;
  };
  add_warps<N>(low_sum, of_warp, [&](int c, float total) { write(c, total, 0); });
  add_warps<N>(high_sum, of_warp, [&](int c, float total) { write(c, total, half); });
}

template <class T>
TurnedBack<T> turned_back(const Tensor& dx, const Tensor& x, const ColumnDots& to) {
  return {rows_of<T>(dx), rows_of<const T>(x), address<float>(to.bias), dx.dim(1) * dx.dim(2)};
}

template <class T>
void turn_all_back_with_dots(const Tensor& dq, const Tensor& dk, const Tensor& cos,
                             const Tensor& sin, const RopeForward& forward, Stream& stream) {
  constexpr int kPack = kPackSize<T>;
  const Tensor& x_of_q = forward.q_dots.defined() ? forward.q : dq;
  const Tensor& x_of_k = forward.k_dots.defined() ? forward.k : dk;
  const auto q = turned_back<T>(dq, x_of_q, forward.q_dots);
  const auto k = turned_back<T>(dk, x_of_k, forward.k_dots);
  const int64_t tokens = dq.dim(0), half = dq.dim(2) / 2, width = q.width + k.width;
  const auto tiles = [&](int pack) {
    return sum_tiles(q.width / 2, pack) + sum_tiles(k.width / 2, pack);
  };
  const SumChunks chunks(tokens, tiles(kPack));
  auto* partial = static_cast<float*>(
      stream.scratch(static_cast<size_t>(chunks.count * width) * sizeof(float)));
  if (stream.measuring()) return;
  if (tokens * width > 0) {
    const bool packed = fit_packs(half, kPack, dq, dk, x_of_q, x_of_k, cos, sin) &&
                        fits_packs(forward.q_dots, kPack) && fits_packs(forward.k_dots, kPack);
    with_pack<kPack>(packed, [&]<int N>(Constant<N>) {
      const dim3 grid(static_cast<unsigned>(tiles(N)), static_cast<unsigned>(chunks.count));
      const BackShape shape{tokens, chunks.size, static_cast<unsigned>(half),
                            static_cast<unsigned>(sum_tiles(q.width / 2, N))};
      turn_back_with_dots<T, N><<<grid, kSumThreads, 0, native(stream)>>>(
          partial, q, k, address<float>(cos), address<float>(sin), shape);
    });
    check_launch("rope_backward");
  }
  sum_partial_dots(forward.q_dots, forward.k_dots, {partial, chunks.count, width, q.width}, stream);
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

void rope(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin, Stream& stream) {
  turn_all(q, k, cos, sin, 1.0f, stream);
}

void rope_backward(const Tensor& dq, const Tensor& dk, const Tensor& cos, const Tensor& sin,
                   const RopeForward& forward, Stream& stream) {
  if (forward.q_dots.defined() || forward.k_dots.defined()) {
    for_element_type(dq.dtype(), [&]<class T>(T*) {
      turn_all_back_with_dots<T>(dq, dk, cos, sin, forward, stream);
    });
  } else if (!stream.measuring()) {
    turn_all(dq, dk, cos, sin, -1.0f, stream);
  }
}

}  // namespace rankwise::cuda
