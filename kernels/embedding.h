// SPDX-License-Identifier: Apache-2.0
// Token embedding: rows of a table by id.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// y (T, C) = table[ids]; ids (T) I32, table (V, C); y and table F32 or, on CUDA, BF16 each, where
// rows may be strided. Ids were checked when the data was read.
void embedding(const Tensor& y, const Tensor& ids, const Tensor& table, Stream& stream);

// dtable[ids[t]] += dy[t], in token order (deterministic). dtable F32, dy F32 or, on CUDA, BF16.
void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids, Stream& stream);

}  // namespace rankwise
