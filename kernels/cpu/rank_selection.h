// SPDX-License-Identifier: Apache-2.0
// CPU backend of the choice of triplets.
#pragma once

#include "kernels/rank_selection.h"

namespace rankwise::cpu {

void triplet_scores(const Tensor& scores, std::span<const TripletImportance> modules);
void keep_highest(const Tensor& keep, const Tensor& scores, int64_t count);  // count >= 1
void zero_dropped(std::span<const Tensor> xs, const Tensor& keep);

}  // namespace rankwise::cpu
