// SPDX-License-Identifier: Apache-2.0
// CPU backend of hashes of tensors.
#pragma once

#include "kernels/fingerprint.h"

namespace rankwise::cpu {

void fingerprint(const Tensor& hashes, std::span<const Tensor> xs);

}  // namespace rankwise::cpu
