// SPDX-License-Identifier: Apache-2.0
// CUDA NF4 quantisation.
#pragma once

#include "kernels/quantize.h"

namespace rankwise::cuda {

// Bit-identical to the CPU. Double quantisation waits for the device: the mean of the scales is
// formed on the host.
void quantize_nf4(QuantizedTensor& out, const Tensor& w, Stream& stream);
void quantize_nf4_blocks(const Tensor& codes, const Tensor& scales, const Tensor& w,
                         Stream& stream);

}  // namespace rankwise::cuda
