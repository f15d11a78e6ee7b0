// SPDX-License-Identifier: Apache-2.0
// Access to the rows of activations, which may be strided, in packs of neighbouring elements.
#pragma once

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

// Whether items of `width` elements at every row of x are whole packs at aligned addresses.
inline bool fits_packs(const Tensor& x, int64_t width, int pack) {
  return is_aligned(x.raw(), int64_t{pack} * bits_of(x.dtype()) / 8) && width % pack == 0 &&
         x.row_stride() % pack == 0;
}

template <int N, class T>
__device__ inline Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <int N, class T>
__device__ inline void store_pack(T* to, const Pack<T, N>& value) {
  *reinterpret_cast<Pack<T, N>*>(to) = value;
}

}  // namespace rankwise::cuda
