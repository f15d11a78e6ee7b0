// SPDX-License-Identifier: Apache-2.0
// Matrix products on a GPU: cuBLASLt with one tuned algorithm per shape, weights expanded to
// scratch.
#pragma once

#include <cstddef>

#include "kernels/matmul.h"

namespace rankwise::cuda {

// Scratch that every product needs besides its operands.
inline constexpr size_t kMatmulWorkspaceBytes = size_t{32} << 20;

void matmul(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulParams& params,
            Stream& stream);
void linear(const Tensor& y, const Tensor& x, const Weight& w, float beta, Stream& stream);
void linear_backward_input(const Tensor& dx, const Tensor& dy, const Weight& w, float beta,
                           Stream& stream);
void set_matmul_tuning(Stream& stream, bool enabled);

// For operations made of several products. D = alpha * op(A) * op(B) + beta * C, types as in
// matmul; C (read only when beta is not 0) has the shape and type of D and may be D itself, but not
// overlap it otherwise. `workspace`: kMatmulWorkspaceBytes of the stream's scratch, aligned to 256
// bytes; the call itself asks for no scratch.
void product(const Tensor& d, const Tensor& a, const Tensor& b, const MatmulParams& params,
             const Tensor& c, void* workspace, Stream& stream);

// Whether products with activations of this type can read the weight where it lies.
bool is_dense(const Weight& weight, DType type);

}  // namespace rankwise::cuda
