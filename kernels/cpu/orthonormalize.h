// SPDX-License-Identifier: Apache-2.0
// The steps of kernels/orthonormalize.h that are not products, on the CPU.
#pragma once

#include "kernels/cholesky_step.h"

namespace rankwise::cpu {

void cholesky_step(const CholeskyStep& step);
void check_lengths(const Tensor& failed, const Tensor& lengths);
void copy_unless_failed(const Tensor& to, const Tensor& from, const Tensor& failed);

}  // namespace rankwise::cpu
