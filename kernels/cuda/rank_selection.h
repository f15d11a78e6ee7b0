// SPDX-License-Identifier: Apache-2.0
// CUDA backend of the choice of triplets.
#pragma once

#include "kernels/rank_selection.h"

namespace rankwise::cuda {

void triplet_scores(const Tensor& scores, std::span<const TripletImportance> modules,
                    Stream& stream);
void keep_highest(const Tensor& keep, const Tensor& scores, int64_t count,
                  Stream& stream);  // count >= 1
void zero_dropped(std::span<const Tensor> xs, const Tensor& keep, Stream& stream);

}  // namespace rankwise::cuda
