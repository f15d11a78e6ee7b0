// SPDX-License-Identifier: Apache-2.0
// Input tensors of the benchmarks.
#pragma once

#include "runtime/arena.h"
#include "runtime/rng.h"

namespace rankwise::bench {

// Uniform in [-1, 1).
inline Tensor random_tensor(Arena& arena, const Shape& shape) {
  const Tensor out = arena.allocate("bench", DType::kF32, shape);
  Rng(1, "bench").fill_uniform({out.data<float>(), static_cast<size_t>(out.numel())}, -1.0f, 1.0f);
  return out;
}

}  // namespace rankwise::bench
