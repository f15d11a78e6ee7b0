// SPDX-License-Identifier: Apache-2.0
// Token embedding on CUDA: y[t] = table[ids[t]]; dtable[ids[t]] += dy[t] in token order: the tokens
// of one id are linked to a chain, which one block per tile of columns walks from its first token.
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 128;

// Block b handles tile b % tiles of the packs of token b / tiles.
struct Tile {
  int64_t token;
  int64_t column;
  bool inside;
};

template <int N>
__device__ Tile tile_of_thread(int packs) {
  const int tiles = (packs + kThreads - 1) / kThreads;
  const int pack = static_cast<int>(blockIdx.x % tiles) * kThreads + threadIdx.x;
  return {int64_t{blockIdx.x / tiles}, int64_t{pack} * N, pack < packs};
}

template <class Y, class W, int N>
__global__ void __launch_bounds__(kThreads)
    copy_rows(Rows<Y> y, const int32_t* ids, Rows<const W> table, int packs) {
  const Tile tile = tile_of_thread<N>(packs);
  if (!tile.inside) return;
  const Pack<W, N> from = load_pack<N>(table[ids[tile.token]] + tile.column);
  Pack<Y, N> to;
#pragma unroll
  for (int k = 0; k < N; ++k) to.v[k] = from_float<Y>(to_float(from.v[k]));
  store_pack(y[tile.token] + tile.column, to);
}

struct ChainLink {
  int first;  // whether no earlier token has this id
  int next;   // the next token with this id, or -1
};

// One warp per token; both searches end at the nearest hit.
__global__ void __launch_bounds__(kThreads)
    link_tokens(ChainLink* links, const int32_t* __restrict__ ids, int tokens) {
  const int t = static_cast<int>((int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32);
  const int lane = threadIdx.x % 32;
  if (t >= tokens) return;
  const int32_t id = ids[t];
  bool first = true;
  for (int begin = t - 32; first && begin > -32; begin -= 32) {
    const int i = begin + lane;
    first = __ballot_sync(0xffffffffu, i >= 0 && ids[i] == id) == 0;
  }
  int next = -1;
  for (int begin = t + 1; next < 0 && begin < tokens; begin += 32) {
    const int i = begin + lane;
    const unsigned hits = __ballot_sync(0xffffffffu, i < tokens && ids[i] == id);
    if (hits != 0) next = begin + __ffs(static_cast<int>(hits)) - 1;
  }
  if (lane == 0) links[t] = {first ? 1 : 0, next};
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    add_chains(Rows<float> dtable, Rows<const T> dy, const int32_t* ids,
               const ChainLink* __restrict__ links, int packs) {
  const Tile tile = tile_of_thread<N>(packs);
  if (!tile.inside || links[tile.token].first == 0) return;
  float* const row = dtable[ids[tile.token]] + tile.column;
  Pack<float, N> sum = load_pack<N>(row);
  for (int64_t t = tile.token; t >= 0; t = links[t].next) {
    const Pack<T, N> gradient = load_pack<N>(dy[t] + tile.column);
#pragma unroll
    for (int k = 0; k < N; ++k) sum.v[k] += to_float(gradient.v[k]);
  }
  store_pack(row, sum);
}

// Calls f with the constant N (4 where all rows allow it, else 1), the packs of a row, and the
// blocks.
template <class F>
void with_tiles(const Tensor& a, const Tensor& b, F&& f) {
  const auto with_pack = [&]<int N>(std::integral_constant<int, N> pack) {
    const int64_t packs = a.dim(1) / N;
    f(pack, static_cast<int>(packs), ceil_div(packs, kThreads));
  };
  if (fits_packs(a, a.dim(1), 4) && fits_packs(b, b.dim(1), 4)) {
    with_pack(std::integral_constant<int, 4>{});
  } else {
    with_pack(std::integral_constant<int, 1>{});
  }
}

}  // namespace

void embedding(const Tensor& y, const Tensor& ids, const Tensor& table, Stream& stream) {
  if (y.numel() == 0) return;
  for_element_type(y.dtype(), [&]<class Y>(Y*) {
    for_element_type(table.dtype(), [&]<class W>(W*) {
      with_tiles(y, table, [&]<int N>(std::integral_constant<int, N>, int packs, int64_t tiles) {
        copy_rows<Y, W, N>
            <<<static_cast<unsigned>(ids.numel() * tiles), kThreads, 0, native(stream)>>>(
                rows_of<Y>(y), address<int32_t>(ids), rows_of<const W>(table), packs);
      });
    });
  });
  check_launch("embedding");
}

void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids, Stream& stream) {
  if (dy.numel() == 0) return;
  const int64_t tokens = ids.numel();
  auto* links =
      static_cast<ChainLink*>(stream.scratch(static_cast<size_t>(tokens) * sizeof(ChainLink)));
  if (stream.measuring()) return;
  link_tokens<<<static_cast<unsigned>(ceil_div(tokens * 32, kThreads)), kThreads, 0,
                native(stream)>>>(links, address<int32_t>(ids), static_cast<int>(tokens));
  check_launch("embedding_backward");
  for_element_type(dy.dtype(), [&]<class T>(T*) {
    with_tiles(dtable, dy, [&]<int N>(std::integral_constant<int, N>, int packs, int64_t tiles) {
      add_chains<T, N><<<static_cast<unsigned>(tokens * tiles), kThreads, 0, native(stream)>>>(
          rows_of<float>(dtable), rows_of<const T>(dy), address<int32_t>(ids), links, packs);
    });
  });
  check_launch("embedding_backward");
}

}  // namespace rankwise::cuda
