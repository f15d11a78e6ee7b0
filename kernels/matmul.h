// SPDX-License-Identifier: Apache-2.0
// Matrix products, with dense or 4-bit weights: the only place that knows a weight's quantisation.
#pragma once

#include "runtime/quantized_tensor.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

struct MatmulParams {
  bool transpose_a = false;
  bool transpose_b = false;
  float alpha = 1.0f;
  float beta = 0.0f;  // 0: c is written without being read
  // On CUDA, whether set_matmul_tuning has a say. False: the algorithm that the library names
  // first, so that ranks with equal devices and operands get equal bits.
  bool tuned = true;
};

// C = alpha * op(A) * op(B) + beta * C; op(A) (m, k), op(B) (k, n), C (m, n). All F32; on CUDA A
// and B may both be BF16, with C BF16 or F32 (sums are fp32 either way). Row-strided views are
// accepted for all three.
void matmul(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulParams& params,
            Stream& stream);

// Y = X * W^T + beta * Y; X (T, in), W (out, in), Y (T, out). Activations are F32, or BF16 on CUDA;
// W is F32, BF16 (with BF16 activations) or NF4. The CPU dequantises NF4 tile by tile into scratch
// that stays in cache; CUDA into scratch of one matrix, in the type of the activations.
void linear(const Tensor& y, const Tensor& x, const Weight& w, float beta, Stream& stream);

// dX = dY * W + beta * dX; dY (T, out), dX (T, in).
void linear_backward_input(const Tensor& dx, const Tensor& dy, const Weight& w, float beta,
                           Stream& stream);

// dW += dY^T * X; dense gradient (out, in) F32, activations as above.
void linear_backward_weight(const Tensor& dw, const Tensor& dy, const Tensor& x, Stream& stream);

// Whether products on this stream take the quickest of the library's algorithms, found by timing
// them at the first use of a shape (the default: what is found, and with it the rounding, may
// differ between runs), or the algorithm that the library names first. No effect on the CPU.
void set_matmul_tuning(Stream& stream, bool enabled);

// Name of the CPU library that does the products ("oneDNN 2.6.3", "OpenBLAS").
const char* cpu_matmul_library();

}  // namespace rankwise
