// SPDX-License-Identifier: Apache-2.0
// Which backend an operation runs on: decided by its stream, in kernels/<op>.cc and nowhere else.
#pragma once

#include "runtime/errors.h"
#include "runtime/stream.h"

namespace rankwise {

inline constexpr bool kHasCuda = RANKWISE_HAS_CUDA != 0;

// For operations that have a CPU backend only: called after the argument checks, before cpu::op.
inline void require_cpu(const Stream& stream) {
  RW_ASSERT(!stream.is_cuda(), "no CUDA backend for this operation on {}",
            to_string(stream.device()));
}

}  // namespace rankwise
