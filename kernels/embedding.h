// SPDX-License-Identifier: Apache-2.0
// Token embedding: rows of a table by id.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// y (T, C) = table[ids - first_id]; ids (T) I32, table (V, C) the rows of ids [first_id, first_id +
// V): rows of y whose id lies elsewhere become 0. y and table F32 or, on CUDA, BF16 each, where
// rows may be strided. Ids were checked when the data was read.
void embedding(const Tensor& y, const Tensor& ids, const Tensor& table, int64_t first_id,
               Stream& stream);

// dtable[ids[t] - first_id] += dy[t], in token order (deterministic), for ids that lie in the
// table. dtable F32, dy F32 or, on CUDA, BF16.
void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids, int64_t first_id,
                        Stream& stream);

}  // namespace rankwise
