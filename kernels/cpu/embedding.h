// SPDX-License-Identifier: Apache-2.0
// CPU backend of the token embedding.
#pragma once

#include "runtime/tensor.h"

namespace rankwise::cpu {

void embedding(const Tensor& y, const Tensor& ids, const Tensor& table, int64_t first_id);
void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids,
                        int64_t first_id);

}  // namespace rankwise::cpu
