// SPDX-License-Identifier: Apache-2.0
// Quantises the slice of a matrix that one rank keeps, with the codes and scales of the whole.
#pragma once

#include <string>

#include "parallel/communicator.h"
#include "runtime/arena.h"
#include "runtime/io/weight_source.h"

namespace rankwise {

// Fills `out`, which is allocated for `slice`, from a tensor that the source holds dense. Each rank
// reads the blocks that its slice touches; the ranks of `tensor`, whose slices make up the whole
// matrix, then exchange the fp32 scales, because double quantisation needs those of all blocks.
// Blocks are quantised on the device of `stream` where the slice consists of whole ones, else on
// the host. In measuring mode nothing is read or exchanged.
void quantize_slice(QuantizedTensor& out, const WeightSource& source, const std::string& name,
                    const MatrixSlice& slice, Communicator& tensor, Arena& arena, Stream& stream);

}  // namespace rankwise
