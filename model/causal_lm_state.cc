// SPDX-License-Identifier: Apache-2.0
#include "model/causal_lm_state.h"

#include <algorithm>
#include <utility>

#include "kernels/embedding.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"

namespace rankwise {

CausalLm::State::State(const ModelConfig& config, const ModelFamily& family,
                       const ParameterLoader& loader, const ModelPlan& plan_in,
                       const DeviceMesh& mesh_in, Arena& arena_in, Stream& stream)
    : arena(&arena_in),
      mesh(&mesh_in),
      plan(plan_in),
      eps(static_cast<float>(config.rms_norm_eps)) {
  const Shape table{config.vocab_size, config.hidden_size};
  const ShardSpec rows = ShardSpec::sharded(0);
  const WeightNames& names = family.names;
  const int rank = mesh->tensor().rank();
  const int size = mesh->tensor().size();
  vocabulary = rows.range(table, rank, size, names.embedding);
  embedding = loader.dense(names.embedding, table, ParameterRole::kEmbedding, rows);
  if (plan.shard_base && mesh->data().size() > 1) {
    gatherer = std::make_unique<BlockGatherer>(mesh->data(), *arena, stream);
  }
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const auto whole_block = arena->scope("staging");
    blocks.push_back(std::make_unique<TransformerBlock>(
        config, family.block_flags(config), i, block_sites(config, names, i, rank, size), loader));
    if (gatherer) gatherer->adopt(blocks.back()->linears());
  }
  if (gatherer) gatherer->finish();
  final_norm = loader.dense(names.final_norm, {config.hidden_size}, ParameterRole::kNorm,
                            ShardSpec::replicated());
  if (!config.tie_word_embeddings) {
    head = loader.dense(names.head, table, ParameterRole::kHead, rows);
  }
  inverse_frequencies =
      uploaded(std::span<const float>(rope_inverse_frequencies(config)), "weights", *arena, stream);
  if (!embedding.trainable) {
    const auto first = std::ranges::find_if(blocks, [](const auto& b) { return b->trained(); });
    lowest_trained = static_cast<size_t>(first - blocks.begin());
  }
}

int64_t CausalLm::State::tail() const {
  int64_t columns = 0;
  for (const auto& block : blocks) columns = std::max(columns, block->tail());
  return columns;
}

void CausalLm::State::start(ForwardContext& context, const MicroBatch& batch) const {
  RW_ASSERT(batch.tokens() > 0 && batch.document_offsets.size() >= 2, "{} tokens", batch.tokens());
  context.tokens = batch.tokens();
  context.first_token = batch.first_token;
  Stream& stream = *context.stream;
  context.ids = uploaded(std::span(batch.input_ids), "activations", *arena, stream);
  context.targets = uploaded(std::span(batch.targets), "activations", *arena, stream);
  context.host_targets = batch.targets;
  context.document_offsets =
      uploaded(std::span(batch.document_offsets), "activations", *arena, stream);
  context.key_offsets = context.document_offsets;
  context.longest_document = batch.longest_document();
  context.longest_key = context.longest_document;
  context.positions = uploaded(std::span(batch.positions), "activations", *arena, stream);
  const Shape angles{context.tokens, inverse_frequencies.dim(0)};
  context.rope_cos = context.allocate(DType::kF32, angles);
  context.rope_sin = context.allocate(DType::kF32, angles);
}

// Blocks whose backward pass will run write their output to new memory; all others work in place.
// What a block saves is dropped at once unless backward will read it; with recomputation, backward
// computes it again from the block's input.
Tensor CausalLm::State::run_blocks(ForwardContext& context) const {
  rope_tables(context.rope_cos, context.rope_sin, context.positions, inverse_frequencies,
              *context.stream);
  const Shape shape{context.tokens, embedding.dense().dim(1)};
  Tensor x = context.allocate(context.compute, shape);
  rankwise::embedding(x, context.ids, embedding.dense(), vocabulary.begin, *context.stream);
  if (mesh->tensor().size() > 1) {
    mesh->tensor().all_reduce(x, ReduceOp::kSum, "embedding output", *context.stream);
  }
  context.blocks.resize(blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (gatherer) {
      gatherer->use(i, i + 1 < blocks.size() ? std::optional(i + 1) : std::nullopt);
    }
    context.blocks[i] = std::make_unique<BlockSaved>();
    const bool kept = keeps(context, i);
    const Tensor output = kept ? context.allocate(context.compute, shape) : x;
    if (kept && plan.recompute != Recompute::kFull) {
      blocks[i]->forward(output, x, *context.blocks[i], context);
    } else {
      const auto scope = arena->scope("activations");
      BlockSaved dropped;
      blocks[i]->forward(output, x, dropped, context);
      context.blocks[i]->input = x;
      context.blocks[i]->output = output;
    }
    x = output;
  }
  return x;
}

void CausalLm::State::finish(ForwardContext& context, const Tensor& x) const {
  context.final_input = x;
  context.final_inv_rms = context.allocate(DType::kF32, {x.dim(0)});
  context.hidden = context.allocate(context.compute, x.shape());
  rms_norm(context.hidden, context.final_inv_rms, x, final_norm.dense(), eps, *context.stream);
}

}  // namespace rankwise
