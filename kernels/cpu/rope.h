// SPDX-License-Identifier: Apache-2.0
// CPU backend of the rotary position embedding.
#pragma once

#include "runtime/tensor.h"

namespace rankwise::cpu {

void rope_tables(const Tensor& cos, const Tensor& sin, const Tensor& positions,
                 const Tensor& inv_freq);
void rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool inverse);

}  // namespace rankwise::cpu
