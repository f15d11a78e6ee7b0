// SPDX-License-Identifier: Apache-2.0
// Hashes of tensors, to tell whether ranks hold the same bits.
#pragma once

#include <span>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// hashes (n) I64: for each of the n tensors xs (contiguous, elements of 1, 2, 4 or 8 bytes) the sum
// modulo 2^64 of hashes of its elements' bits and places; equal on all devices. One other bit gives
// another hash.
void fingerprint(const Tensor& hashes, std::span<const Tensor> xs, Stream& stream);

}  // namespace rankwise
