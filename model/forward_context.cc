// SPDX-License-Identifier: Apache-2.0
#include "model/forward_context.h"

#include <numeric>

#include "model/model_plan.h"
#include "model/transformer_block.h"

namespace rankwise {
namespace {

constexpr int64_t kRowElements = 64;  // row strides on CUDA are multiples of it

}  // namespace

ForwardContext::ForwardContext(Arena& arena_in, Stream& stream_in, Communicator& tensor_ranks_in,
                               const ModelPlan& plan, bool training_in, uint64_t step_in)
    : arena(&arena_in),
      stream(&stream_in),
      tensor_ranks(&tensor_ranks_in),
      training(training_in),
      seed(plan.seed),
      step(step_in),
      compute(plan.compute),
      recompute(plan.recompute),
      deterministic(plan.deterministic) {}

// Here, where BlockSaved is complete.
ForwardContext::ForwardContext(ForwardContext&&) noexcept = default;
ForwardContext& ForwardContext::operator=(ForwardContext&&) noexcept = default;
ForwardContext::~ForwardContext() = default;

Columns ForwardContext::allocate_columns(bool kept, std::span<const int64_t> widths, int64_t tail) {
  const char* purpose = kept ? "activations" : "workspace";
  Columns out;
  if (!stream->is_cuda()) {
    for (int64_t width : widths) {
      out.parts.push_back(arena->allocate(purpose, compute, {tokens, width}));
    }
    return out;
  }
  const int64_t used = std::accumulate(widths.begin(), widths.end(), tail);
  const int64_t stride = (used + kRowElements - 1) / kRowElements * kRowElements;
  const Tensor matrix = arena->allocate(purpose, compute, {tokens, stride});
  int64_t begin = 0;
  for (int64_t width : widths) {
    out.parts.push_back(matrix.columns(begin, begin + width));
    begin += width;
  }
  if (tail > 0) out.tail = matrix.columns(begin, begin + tail);
  return out;
}

}  // namespace rankwise
