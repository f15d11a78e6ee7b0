// SPDX-License-Identifier: Apache-2.0
// Exact thin singular value decomposition, on the CPU: a = u diag(s) vt, s descending, u and vt
// with orthonormal columns and rows.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// a (m, n), u (m, k), s (k), vt (k, n) with k = min(m, n) > 0: F32, contiguous, a finite and kept.
// Takes scratch memory.
void svd(const Tensor& u, const Tensor& s, const Tensor& vt, const Tensor& a, Stream& stream);

}  // namespace rankwise
