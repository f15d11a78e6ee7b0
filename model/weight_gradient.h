// SPDX-License-Identifier: Apache-2.0
// Gradients of trained weights: whole, or projected on the way (Parameter::projection).
#pragma once

#include "parallel/parameter.h"
#include "runtime/arena.h"

namespace rankwise {

// Both add to what of Parameter stands for the gradient at the moment: dense_gradient while it is
// defined, else gradient.

// Of a matrix (out, in): dy^T x with dy (T, out), x (T, in).
void accumulate_weight_gradient(const Parameter& weight, const Tensor& dy, const Tensor& x,
                                Stream& stream);

// Of a table (V, C), rows of the ids [first_id, first_id + V): row ids[t] - first_id gets dy[t];
// dy (T, C), ids (T) I32. Memory of (T, rank) from "workspace" when the table is projected.
void accumulate_embedding_gradient(const Parameter& table, const Tensor& dy, const Tensor& ids,
                                   int64_t first_id, Arena& arena, Stream& stream);

}  // namespace rankwise
