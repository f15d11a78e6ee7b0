// SPDX-License-Identifier: Apache-2.0
// CPU matrix products in fp32: the one place that calls the GEMM library.
#pragma once

#include <cstdint>

#include "kernels/matmul.h"

namespace rankwise::cpu {

// Element (i, j) of op(M) is data[i * stride + j], or data[j * stride + i] when transposed.
struct GemmOperand {
  const float* data = nullptr;
  int64_t stride = 0;
  bool transposed = false;
};

struct GemmShape {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
};

// C (m, n) = alpha * op(A) (m, k) * op(B) (k, n) + beta * C. Uses the OpenMP threads of the caller,
// and one thread inside a parallel region. Equal arguments give bit-equal results. beta 0 never
// reads C.
void gemm(float* c, int64_t c_stride, const GemmOperand& a, const GemmOperand& b,
          const GemmShape& shape, float alpha, float beta);

void matmul(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulParams& params);

// The products of kernels/matmul.h with diag(row_factors) W; row_factors (out), null: ones. Tiles
// of rows of an NF4 weight, or of any with factors, are written to scratch and multiplied.
void linear(const Tensor& y, const Tensor& x, const Weight& w, const float* row_factors, float beta,
            Stream& stream);
void linear_backward_input(const Tensor& dx, const Tensor& dy, const Weight& w,
                           const float* row_factors, float beta, Stream& stream);

const char* matmul_library();

}  // namespace rankwise::cpu
