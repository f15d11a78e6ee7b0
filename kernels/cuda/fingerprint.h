// SPDX-License-Identifier: Apache-2.0
// CUDA backend of hashes of tensors.
#pragma once

#include "kernels/fingerprint.h"

namespace rankwise::cuda {

void fingerprint(const Tensor& hashes, std::span<const Tensor> xs, Stream& stream);

}  // namespace rankwise::cuda
