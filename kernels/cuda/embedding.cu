// SPDX-License-Identifier: Apache-2.0
// Token embedding on CUDA: y[t] = row of ids[t]; row of ids[t] += dy[t] in token order: the tokens
// of one id are linked to a chain, which one block per tile of columns walks from its first token.
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kPack = 4;

// The rows of a table that belong to the ids [first_id, first_id + count).
template <class T>
struct IdRows {
  Rows<T> rows;
  int64_t first_id, count;

  // Null when the id has no row here.
  __device__ T* operator[](int32_t id) const {
    const int64_t row = id - first_id;
    return row >= 0 && row < count ? rows[row] : nullptr;
  }
};

template <class T>
IdRows<T> id_rows_of(const Tensor& table, int64_t first_id) {
  return {rows_of<T>(table), first_id, table.dim(0)};
}

template <class Y, class W, int N>
__global__ void __launch_bounds__(kTilePacks)
    copy_rows(Rows<Y> y, const int32_t* ids, IdRows<const W> table, int packs) {
  const Tile tile = tile_of_thread<N>(packs);
  if (!tile.inside) return;
  const W* const row = table[ids[tile.row]];
  Pack<W, N> from{};
  if (row != nullptr) from = load_pack<N>(row + tile.column);
  Pack<Y, N> to;
#pragma unroll
  for (int k = 0; k < N; ++k) to.v[k] = from_float<Y>(to_float(from.v[k]));
  store_pack(y[tile.row] + tile.column, to);
}

struct ChainLink {
  int first;  // whether no earlier token has this id
  int next;   // the next token with this id, or -1
};

// One warp per token; both searches end at the nearest hit.
__global__ void __launch_bounds__(kTilePacks)
    link_tokens(ChainLink* links, const int32_t* __restrict__ ids, int tokens) {
  const int t = static_cast<int>((int64_t{blockIdx.x} * kTilePacks + threadIdx.x) / 32);
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
__global__ void __launch_bounds__(kTilePacks)
    add_chains(IdRows<float> dtable, Rows<const T> dy, const int32_t* ids,
               const ChainLink* __restrict__ links, int packs) {
  const Tile tile = tile_of_thread<N>(packs);
  if (!tile.inside || links[tile.row].first == 0) return;
  float* const row = dtable[ids[tile.row]];
  if (row == nullptr) return;
  Pack<float, N> sum = load_pack<N>(row + tile.column);
  for (int64_t t = tile.row; t >= 0; t = links[t].next) {
    const Pack<T, N> gradient = load_pack<N>(dy[t] + tile.column);
#pragma unroll
    for (int k = 0; k < N; ++k) sum.v[k] += to_float(gradient.v[k]);
  }
  store_pack(row + tile.column, sum);
}

}  // namespace

void embedding(const Tensor& y, const Tensor& ids, const Tensor& table, int64_t first_id,
               Stream& stream) {
  if (y.numel() == 0) return;
  const int64_t width = y.dim(1);
  for_element_type(y.dtype(), [&]<class Y>(Y*) {
    for_element_type(table.dtype(), [&]<class W>(W*) {
      with_tiles<kPack>(fit_packs(width, kPack, y, table), ids.numel(), width,
                        [&]<int N>(Constant<N>, int packs, unsigned blocks) {
                          copy_rows<Y, W, N><<<blocks, kTilePacks, 0, native(stream)>>>(
                              rows_of<Y>(y), address<int32_t>(ids),
                              id_rows_of<const W>(table, first_id), packs);
                        });
    });
  });
  check_launch("embedding");
}

void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids, int64_t first_id,
                        Stream& stream) {
  if (dy.numel() == 0) return;
  const int64_t tokens = ids.numel(), width = dy.dim(1);
  auto* links =
      static_cast<ChainLink*>(stream.scratch(static_cast<size_t>(tokens) * sizeof(ChainLink)));
  if (stream.measuring()) return;
  link_tokens<<<static_cast<unsigned>(ceil_div(tokens * 32, kTilePacks)), kTilePacks, 0,
                native(stream)>>>(links, address<int32_t>(ids), static_cast<int>(tokens));
  check_launch("embedding_backward");
  for_element_type(dy.dtype(), [&]<class T>(T*) {
    with_tiles<kPack>(fit_packs(width, kPack, dtable, dy), tokens, width,
                      [&]<int N>(Constant<N>, int packs, unsigned blocks) {
                        add_chains<T, N><<<blocks, kTilePacks, 0, native(stream)>>>(
                            id_rows_of<float>(dtable, first_id), rows_of<const T>(dy),
                            address<int32_t>(ids), links, packs);
                      });
  });
  check_launch("embedding_backward");
}

}  // namespace rankwise::cuda
