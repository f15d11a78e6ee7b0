// SPDX-License-Identifier: Apache-2.0
#include "model/forward_context.h"

#include "model/transformer_block.h"

namespace rankwise {

ForwardContext::ForwardContext(Arena& arena_in, Stream& stream_in, bool training_in,
                               uint64_t seed_in, uint64_t step_in)
    : arena(&arena_in), stream(&stream_in), training(training_in), seed(seed_in), step(step_in) {}

// Here, where BlockSaved is complete.
ForwardContext::ForwardContext(ForwardContext&&) noexcept = default;
ForwardContext& ForwardContext::operator=(ForwardContext&&) noexcept = default;
ForwardContext::~ForwardContext() = default;

}  // namespace rankwise
