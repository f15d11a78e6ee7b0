// SPDX-License-Identifier: Apache-2.0
// CPU backend of the AdamW update.
#pragma once

#include "kernels/adamw.h"

namespace rankwise::cpu {

void adamw(const Tensor& p, const Tensor& m, const Tensor& v, const Tensor& g, float gradient_scale,
           const AdamWParams& params);

}  // namespace rankwise::cpu
