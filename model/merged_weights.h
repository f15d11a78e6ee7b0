// SPDX-License-Identifier: Apache-2.0
// The dense weights of a model, with or without its adapters folded in.
#pragma once

#include <vector>

#include "model/causal_lm.h"
#include "runtime/named_tensor.h"

namespace rankwise {

// Every tensor of the model as F32 in model order, on the host; changed or 4-bit ones, and those of
// a model on a GPU, are new ("merged" in the arena, which is the host's), the others are views of
// the model's. A 4-bit weight is dequantised, which is the weight the adapter was trained beside,
// unless `original` gives the weight it was quantised from. For models of one tensor rank.
std::vector<NamedTensor> merged_weights(CausalLm& model, const WeightSource* original, Arena& arena,
                                        Stream& stream);

// The same without adapters: the base as it stands, 4-bit weights dequantised. The tensor ranks of
// the model call it together and each gets the whole. Not for a base that is split over data ranks.
std::vector<NamedTensor> base_weights(CausalLm& model, Arena& arena, Stream& stream);

}  // namespace rankwise
