// SPDX-License-Identifier: Apache-2.0
// CUDA backend of the AdamW update.
#pragma once

#include "kernels/adamw.h"

namespace rankwise::cuda {

void adamw(std::span<const AdamWTensors> tensors, const AdamWFactors& factors, Stream& stream);

}  // namespace rankwise::cuda
