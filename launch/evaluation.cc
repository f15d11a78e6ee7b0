// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation.h"

#include <array>
#include <cmath>

#include "kernels/elementwise.h"
#include "runtime/transfer.h"

namespace rankwise {

double EvaluationResult::perplexity() const { return std::exp(loss); }

EvaluationResult evaluate_loss(CausalLm& model, const std::vector<MicroBatch>& batches,
                               const DeviceMesh& mesh, Arena& arena, Stream& stream) {
  const Arena::Scope scope = arena.scope("metrics");
  const Tensor sums = arena.allocate("metrics", DType::kF64, {3});
  fill(sums, 0.0f, stream);
  for (const MicroBatch& batch : batches) {
    const int patience = &batch == batches.data() ? kFilePatience : 1;
    mesh.world().activity().report("evaluate", patience, /*repeats=*/true);
    const Arena::Scope activations = arena.scope("activations");
    ForwardContext context = model.forward(batch, /*training=*/false, /*step=*/0, stream);
    model.loss(context, sums, stream);
  }
  mesh.data().all_reduce(sums, ReduceOp::kSum, "evaluation sums", stream);
  std::array<double, 3> values{};
  download(values.data(), sums, stream);
  EvaluationResult result;
  result.trained_tokens = static_cast<int64_t>(values[1]);
  if (result.trained_tokens > 0) {
    result.loss = values[0] / values[1];
    result.token_accuracy = values[2] / values[1];
  }
  return result;
}

}  // namespace rankwise
