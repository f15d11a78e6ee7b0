// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation.h"

#include <array>
#include <cmath>

#include "kernels/elementwise.h"
#include "runtime/transfer.h"

namespace rankwise {

double EvaluationResult::perplexity() const { return std::exp(loss); }

std::optional<EvaluationResult> evaluate_loss(CausalLm& model,
                                              const std::vector<MicroBatch>& batches,
                                              const DeviceMesh& mesh, Arena& arena, Stream& stream,
                                              const std::function<bool()>& gives_up) {
  // Shards may have one less than others.
  const double most = all_reduce_numbers(mesh.world(), {static_cast<double>(batches.size())},
                                         ReduceOp::kMax, "evaluation batches")[0];
  const Arena::Scope scope = arena.scope("metrics");
  const Tensor sums = arena.allocate("metrics", DType::kF64, {3});
  fill(sums, 0.0f, stream);
  for (size_t i = 0; i < static_cast<size_t>(most); ++i) {
    if (gives_up && gives_up()) return std::nullopt;
    if (i >= batches.size()) continue;
    mesh.world().activity().report("evaluate", i == 0 ? kFirstPatience : 1, /*repeats=*/true);
    const Arena::Scope activations = arena.scope("activations");
    ForwardContext context = model.forward(batches[i], /*training=*/false, /*step=*/0, stream);
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
