// SPDX-License-Identifier: Apache-2.0
// w[r, c] = keep w[r, c] + change[r, c] in fp32, rounded to BF16 with 16 random bits per element: a
// draw serves the 8 neighbours of a pack.
#include "kernels/cuda/philox.cuh"
#include "kernels/cuda/projection.h"
#include "kernels/cuda/rows.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kPack = kPackSize<bf16>;

// random < 2^16. What the upper half of the bits cannot hold makes a carry with its probability; a
// carry must not turn a NaN into a number.
__device__ bf16 rounded(float x, uint32_t random) {
  if (isnan(x)) return from_float<bf16>(x);
  return __ushort_as_bfloat16(static_cast<unsigned short>((__float_as_uint(x) + random) >> 16));
}

__device__ uint32_t half_of(uint32_t word, uint64_t index) {
  return index % 2 == 0 ? word & 0xffffu : word >> 16;
}

template <int N>
__global__ void __launch_bounds__(kTilePacks)
    add_rounded(Rows<bf16> w, Rows<const float> change, int packs_per_row, float keep,
                Philox random, MaskPlace place) {
  const Tile tile = tile_of_thread<N>(packs_per_row);
  if (!tile.inside) return;
  bf16* to = w[tile.row] + tile.column;
  Pack<bf16, N> pack = load_pack<N>(to);
  const Pack<float, N> added = load_pack<N>(change[tile.row] + tile.column);
  const uint64_t index = place.first + static_cast<uint64_t>(tile.row * place.width + tile.column);
  const auto update = [&](int i, uint32_t bits) {
    pack.v[i] = rounded(fmaf(keep, to_float(pack.v[i]), added.v[i]), bits);
  };
  if (N == kPack && index % kPack == 0) {
    uint32_t words[4];
    random.draw(index / kPack, words);
#pragma unroll
    for (int i = 0; i < N; ++i) update(i, half_of(words[i / 2], i));
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) update(i, half_of(random.bits((index + i) / 2), index + i));
  }
  store_pack(to, pack);
}

}  // namespace

void add_rounded_stochastically(const Tensor& w, const Tensor& change, float keep, const Rng& rng,
                                const MaskPlace& place, Stream& stream) {
  if (w.numel() == 0) return;
  with_tiles<kPack>(fit_packs(w.dim(1), kPack, w, change), w.dim(0), w.dim(1),
                    [&]<int N>(Constant<N>, int packs, unsigned blocks) {
                      add_rounded<N><<<blocks, kTilePacks, 0, native(stream)>>>(
                          rows_of<bf16>(w), rows_of<const float>(change), packs, keep, Philox(rng),
                          place);
                    });
  check_launch("add_back_projection");
}

}  // namespace rankwise::cuda
