// SPDX-License-Identifier: Apache-2.0
// CPU backend of the rotary position embedding.
#pragma once

#include "kernels/column_dots.h"

namespace rankwise::cpu {

void rope_tables(const Tensor& cos, const Tensor& sin, const Tensor& positions,
                 const Tensor& inv_freq);
// inverse: by -angle.
void rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool inverse);
// dx by -angle, and the sums of it with x by -angle, which is not written.
void rope_backward(const Tensor& dx, const Tensor& cos, const Tensor& sin, const Tensor& x,
                   const ColumnDots& to, Stream& stream);

}  // namespace rankwise::cpu
