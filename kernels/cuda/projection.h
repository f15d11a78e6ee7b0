// SPDX-License-Identifier: Apache-2.0
// The step of kernels/projection.h that is no product, on a GPU; without scratch memory.
#pragma once

#include "kernels/mask_place.h"
#include "runtime/rng.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise::cuda {

// w (rows, width) BF16 = keep w + change, rounded as add_back_projection says; change F32. Rows may
// be strided.
void add_rounded_stochastically(const Tensor& w, const Tensor& change, float keep, const Rng& rng,
                                const MaskPlace& place, Stream& stream);

}  // namespace rankwise::cuda
