// SPDX-License-Identifier: Apache-2.0
// CUDA backend of the token embedding.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise::cuda {

void embedding(const Tensor& y, const Tensor& ids, const Tensor& table, int64_t first_id,
               Stream& stream);

// Takes scratch memory.
void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids, int64_t first_id,
                        Stream& stream);

}  // namespace rankwise::cuda
