// SPDX-License-Identifier: Apache-2.0
// Which backend an operation runs on: decided by its stream, in kernels/<op>.cc and nowhere else.
#pragma once

#include "runtime/errors.h"
#include "runtime/stream.h"

namespace rankwise {

// In kernels/<op>.cc, after the argument checks and the return in measuring mode:
//   if constexpr (kHasCuda) {
//     if (stream.is_cuda()) return cuda::op(...);
//   }
//   cpu::op(...);
// A CUDA operation that takes scratch memory is called in measuring mode too, on a CUDA stream: it
// asks stream.scratch() for all it needs, at once, and returns when measuring.

// For operations that have a CPU backend only: called after the argument checks, before cpu::op.
inline void require_cpu(const Stream& stream) {
  RW_ASSERT(!stream.is_cuda(), "no CUDA backend for this operation on {}",
            to_string(stream.device()));
}

}  // namespace rankwise
