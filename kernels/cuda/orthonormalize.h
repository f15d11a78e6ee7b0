// SPDX-License-Identifier: Apache-2.0
// The steps of kernels/orthonormalize.h that are not products, on a GPU; without scratch memory.
#pragma once

#include "kernels/cholesky_step.h"
#include "runtime/stream.h"

namespace rankwise::cuda {

void cholesky_step(const CholeskyStep& step, Stream& stream);
void check_lengths(const Tensor& failed, const Tensor& lengths, Stream& stream);
// high + low = x (F32) up to 2^-16 of each element; all contiguous, high and low BF16.
void split_in_halves(const Tensor& high, const Tensor& low, const Tensor& x, Stream& stream);
void copy_unless_failed(const Tensor& to, const Tensor& from, const Tensor& failed, Stream& stream);

}  // namespace rankwise::cuda
