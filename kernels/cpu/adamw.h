// SPDX-License-Identifier: Apache-2.0
// CPU backend of the AdamW update.
#pragma once

#include "kernels/adamw.h"

namespace rankwise::cpu {

void adamw(const AdamWTensors& tensors, const AdamWFactors& factors);

}  // namespace rankwise::cpu
