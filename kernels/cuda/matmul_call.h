// SPDX-License-Identifier: Apache-2.0
// MatmulCall: one matrix product as sizes, strides and addresses.
#pragma once

#include <cstdint>

#include "kernels/matmul.h"

namespace rankwise::cuda {

// D (m, n) = alpha * op(A) (m, k) * op(B) (k, n) + beta * C, row-major; strides between rows as
// stored, in elements. With beta 0, C is D.
struct MatmulCall {
  int64_t m = 0, n = 0, k = 0;
  DType input = DType::kF32;   // of A and B
  DType output = DType::kF32;  // of C and D
  bool transpose_a = false, transpose_b = false;
  float alpha = 1.0f, beta = 0.0f;
  bool tuned = true;  // as in MatmulParams
  const void *a = nullptr, *b = nullptr, *c = nullptr;
  void* d = nullptr;
  int64_t a_stride = 0, b_stride = 0, c_stride = 0, d_stride = 0;
};

// d = alpha * op(a) * op(b) + beta * c.
MatmulCall matmul_call(const Tensor& d, const Tensor& a, const Tensor& b,
                       const MatmulParams& params, const Tensor& c);

// Any layout and any size, m and n at least 1; several times slower than the library.
void tiled_matmul(const MatmulCall& call, Stream& stream);

}  // namespace rankwise::cuda
