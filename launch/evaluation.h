// SPDX-License-Identifier: Apache-2.0
// Evaluation: mean loss and token accuracy of a model over a fixed list of micro-batches.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "model/causal_lm.h"
#include "parallel/device_mesh.h"
#include "runtime/data/micro_batch.h"

namespace rankwise {

struct EvaluationResult {
  double loss = 0.0;            // mean over trained tokens of all shards
  double token_accuracy = 0.0;  // share of trained tokens that are the argmax
  int64_t trained_tokens = 0;
  double perplexity() const;
};

// `batches` are this data shard's; every rank calls, all get the result of all shards together.
// `gives_up` is asked before every micro-batch, as often on every rank, and must tell all the same:
// then there is no result.
std::optional<EvaluationResult> evaluate_loss(CausalLm& model,
                                              const std::vector<MicroBatch>& batches,
                                              const DeviceMesh& mesh, Arena& arena, Stream& stream,
                                              const std::function<bool()>& gives_up = {});

}  // namespace rankwise
