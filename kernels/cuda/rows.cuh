// SPDX-License-Identifier: Apache-2.0
// Access to the rows of activations, which may be strided, in packs of neighbouring elements.
#pragma once

#include <type_traits>

#include "kernels/cuda/launch.cuh"

namespace rankwise::cuda {

// The items of dimension 0 of a tensor.
template <class T>
struct Rows {
  T* data;
  int64_t stride;
  __device__ T* operator[](int64_t row) const { return data + row * stride; }
};

// Of a tensor of rank 2 or more whose type was checked; an undefined tensor has a null address.
template <class T>
Rows<T> rows_of(const Tensor& x) {
  return {static_cast<T*>(x.raw()), x.row_stride()};
}

// Whether the rows of all tensors, or items of `width` elements side by side in them, are whole
// packs at aligned addresses. Undefined tensors do not count.
template <class... Tensors>
bool fit_packs(int64_t width, int pack, const Tensors&... x) {
  return width % pack == 0 && ((is_aligned(x.raw(), int64_t{pack} * bits_of(x.dtype()) / 8) &&
                                x.row_stride() % pack == 0) &&
                               ...);
}

template <int N>
using Constant = std::integral_constant<int, N>;

// Calls f with the constant N when packs of N are possible, else with 1.
template <int N, class F>
void with_pack(bool possible, F&& f) {
  possible ? f(Constant<N>{}) : f(Constant<1>{});
}

template <int N, class T>
__device__ inline Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <int N, class T>
__device__ inline void store_pack(T* to, const Pack<T, N>& value) {
  *reinterpret_cast<Pack<T, N>*>(to) = value;
}

constexpr int kTilePacks = 128;  // and threads of a block that moves a tile

// Block b handles tile b % tiles of the packs of row (or group of rows) b / tiles.
struct Tile {
  int64_t row;
  int64_t column;  // first of the pack of this thread
  bool inside;
};

template <int N>
__device__ inline Tile tile_of_thread(int packs_per_row) {
  const int tiles = (packs_per_row + kTilePacks - 1) / kTilePacks;
  const int pack = static_cast<int>(blockIdx.x % tiles) * kTilePacks + threadIdx.x;
  return {int64_t{blockIdx.x / tiles}, int64_t{pack} * N, pack < packs_per_row};
}

// Calls f with the constant N or 1, the packs of a row of `width` elements, and the blocks of
// `rows`.
template <int N, class F>
void with_tiles(bool packs_possible, int64_t rows, int64_t width, F&& f) {
  with_pack<N>(packs_possible, [&]<int M>(Constant<M> pack) {
    const int64_t packs = width / M;
    f(pack, static_cast<int>(packs), static_cast<unsigned>(rows * ceil_div(packs, kTilePacks)));
  });
}

}  // namespace rankwise::cuda
