// SPDX-License-Identifier: Apache-2.0
// The operations of kernels/low_rank_linear.h on a GPU: few, large products.
#pragma once

#include "kernels/low_rank_linear.h"

namespace rankwise::cuda {

void low_rank_linear(std::span<const Tensor> ys, std::span<const Tensor> downs, const Tensor& x,
                     std::span<const LowRankLinear> layers, const Tensor& addend, Stream& stream);
void low_rank_linear_backward_input(const Tensor& dx, std::span<const Tensor> ddowns,
                                    std::span<const Tensor> dys,
                                    std::span<const LowRankLinear> layers, float beta,
                                    Stream& stream);
void low_rank_linear_backward_weight(std::span<const LowRankGradients> gradients,
                                     std::span<const Tensor> ddowns, std::span<const Tensor> dys,
                                     std::span<const Tensor> downs, const Tensor& x,
                                     std::span<const LowRankLinear> layers, Stream& stream);
void add_low_rank_product(const Tensor& w, const LowRankLinear& layer, Stream& stream);

}  // namespace rankwise::cuda
