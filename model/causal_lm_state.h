// SPDX-License-Identifier: Apache-2.0
// CausalLm::State: the parts of a model and the walk through its blocks.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "model/block_gatherer.h"
#include "model/causal_lm.h"
#include "model/head_loss.h"
#include "model/transformer_block.h"
#include "runtime/transfer.h"

namespace rankwise {

// Values of the host in a new tensor of the arena.
template <class T>
Tensor uploaded(std::span<const T> values, std::string_view purpose, Arena& arena, Stream& stream) {
  const Tensor out =
      arena.allocate(purpose, dtype_of<T>(), Shape{static_cast<int64_t>(values.size())});
  upload(out, values.data(), stream);
  return out;
}

struct CausalLm::State {
  State(const ModelConfig& config, const ModelFamily& family, const ParameterLoader& loader,
        const ModelPlan& plan_in, const DeviceMesh& mesh_in, Arena& arena_in, Stream& stream);

  const Parameter& head_weight() const { return head ? *head : embedding; }
  Parameter& head_weight() { return head ? *head : embedding; }
  HeadLoss head_loss() {
    return {head_weight(), vocabulary.begin, plan.compute, plan.logits_bytes};
  }
  bool keeps(const ForwardContext& context, size_t block) const {
    return context.training && block >= lowest_trained;
  }
  void start(ForwardContext& context, const MicroBatch& batch) const;
  Tensor run_blocks(ForwardContext& context) const;
  void finish(ForwardContext& context, const Tensor& x) const;
  int64_t tail() const;  // columns that some block wants behind the gradient of its output

  Arena* arena;
  const DeviceMesh* mesh;
  ModelPlan plan;
  ShardSpec::Range vocabulary;  // of this rank
  float eps;
  Parameter embedding;
  std::vector<std::unique_ptr<TransformerBlock>> blocks;
  std::unique_ptr<BlockGatherer> gatherer;  // null: every data rank holds the whole
  Parameter final_norm;
  std::optional<Parameter> head;  // none: tied to the embedding
  Tensor inverse_frequencies;     // (D / 2)
  size_t lowest_trained = 0;      // backward ends with this block; blocks.size(): none is trained
};

}  // namespace rankwise
