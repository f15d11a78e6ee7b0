// SPDX-License-Identifier: Apache-2.0
// What every CUDA kernel file needs: error checks, element access in fp32, sums over blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "runtime/errors.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise::cuda {

inline cudaStream_t native(Stream& stream) { return static_cast<cudaStream_t>(stream.native()); }

// CommunicationError naming the operation and what the driver says.
inline void check(cudaError_t status, const char* operation) {
  if (status == cudaSuccess) return;
  throw CommunicationError(fmt::format("CUDA: {} failed: {} ({})", operation,
                                       cudaGetErrorString(status), cudaGetErrorName(status)));
}

// To be called after each launch.
inline void check_launch(const char* operation) { check(cudaGetLastError(), operation); }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

using bf16 = __nv_bfloat16;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// N neighbouring elements moved as one access; the address is a multiple of its size.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};
// Elements in 16 bytes.
template <class T>
inline constexpr int kPackSize = static_cast<int>(16 / sizeof(T));

inline bool is_aligned(const void* address, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) == 0;
}

// Sum over a warp, the same in every lane; the order is fixed.
__device__ inline float warp_sum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// Result of the commutative op over a block of at most 1024 threads, a multiple of 32, the same in
// every thread; the order is fixed. op(x, neutral) is x. `shared` holds 32 values and may be reused
// after the return.
template <class V, class Op>
__device__ V block_reduce(V x, V neutral, V* shared, Op op) {
  const int lane = threadIdx.x % 32;
  const auto over_warp = [&] {
    for (int offset = 16; offset > 0; offset /= 2) {
      x = op(x, __shfl_xor_sync(0xffffffffu, x, offset));
    }
  };
  over_warp();
  if (lane == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = lane < blockDim.x / 32 ? shared[lane] : neutral;
  over_warp();
  __syncthreads();
  return x;
}

template <class V>
__device__ V block_sum(V x, V* shared) {
  return block_reduce(x, V{0}, shared, [](V a, V b) { return a + b; });
}

// Calls f with a null pointer of the element type of an activation: float or bf16.
template <class F>
void for_element_type(DType dtype, F&& f) {
  if (dtype == DType::kF32) {
    f(static_cast<float*>(nullptr));
  } else {
    RW_ASSERT(dtype == DType::kBF16, "{}", name_of(dtype));
    f(static_cast<bf16*>(nullptr));
  }
}

// Typed address of an activation whose type was checked.
template <class T>
T* address(const Tensor& x) {
  return static_cast<T*>(x.raw());
}

}  // namespace rankwise::cuda
