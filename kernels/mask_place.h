// SPDX-License-Identifier: Apache-2.0
// MaskPlace: where a slice of activations lies in the whole.
#pragma once

#include <cstdint>

namespace rankwise {

// For random numbers that do not depend on how activations are split: element (t, c) of the slice
// has index first + t * width + c.
struct MaskPlace {
  uint64_t first = 0;
  int64_t width = 0;  // of the whole activations
};

}  // namespace rankwise
