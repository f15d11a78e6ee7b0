// SPDX-License-Identifier: Apache-2.0
// Which backend an operation runs on: decided by its stream, in kernels/<op>.cc and nowhere else.
#pragma once

#include "runtime/stream.h"

// In kernels/<op>.cc, after the argument checks and the return in measuring mode:
//   if constexpr (kHasCuda) {
//     if (stream.is_cuda()) return cuda::op(...);
//   }
//   cpu::op(...);
// A CUDA operation that takes scratch memory is called in measuring mode too, on a CUDA stream: it
// asks stream.scratch() for all it needs, at once, and returns when measuring.
