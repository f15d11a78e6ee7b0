// SPDX-License-Identifier: Apache-2.0
// Products with one dimension of 8 or so (low-rank terms), which leave a GEMM library's lanes
// empty.
#pragma once

#include "kernels/cpu/matmul.h"

namespace rankwise::cpu {

// gemm() of kernels/cpu/matmul.h for the shapes where these kernels are the quicker ones; false,
// and C untouched, for all others. Bits do not depend on the number of threads.
bool thin_gemm(float* c, int64_t c_stride, const GemmOperand& a, const GemmOperand& b,
               const GemmShape& shape, float alpha, float beta);

}  // namespace rankwise::cpu
