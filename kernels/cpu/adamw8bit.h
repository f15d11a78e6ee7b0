// SPDX-License-Identifier: Apache-2.0
// CPU backend of the AdamW update with 8-bit moments.
#pragma once

#include "kernels/adamw8bit.h"

namespace rankwise::cpu {

void adamw8bit(const AdamW8bitTensors& tensors, const AdamWFactors& factors);

}  // namespace rankwise::cpu
