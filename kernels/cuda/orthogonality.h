// SPDX-License-Identifier: Apache-2.0
// CUDA backend of kernels/orthogonality.h.
#pragma once

#include "kernels/orthogonality.h"

namespace rankwise::cuda {

void orthogonality(const Tensor& sum, std::span<const OrthogonalityTerm> terms, float weight,
                   Stream& stream);

}  // namespace rankwise::cuda
