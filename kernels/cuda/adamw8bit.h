// SPDX-License-Identifier: Apache-2.0
// CUDA backend of the AdamW update with 8-bit moments.
#pragma once

#include "kernels/adamw8bit.h"

namespace rankwise::cuda {

void adamw8bit(std::span<const AdamW8bitTensors> tensors, const AdamWFactors& factors,
               Stream& stream);

}  // namespace rankwise::cuda
