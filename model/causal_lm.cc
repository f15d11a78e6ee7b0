// SPDX-License-Identifier: Apache-2.0
#include "model/causal_lm.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "model/head_loss.h"
#include "model/kv_cache.h"
#include "model/transformer_block.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

template <class T>
Tensor uploaded(std::span<const T> values, std::string_view purpose, Arena& arena, Stream& stream) {
  const Tensor out =
      arena.allocate(purpose, dtype_of<T>(), Shape{static_cast<int64_t>(values.size())});
  upload(out, values.data(), stream);
  return out;
}

}  // namespace

struct CausalLm::State {
  State(const ModelConfig& config, const ModelFamily& family, const ParameterLoader& loader,
        const ModelPlan& plan_in, Arena& arena_in, Stream& stream);

  const Parameter& head_weight() const { return head ? *head : embedding; }
  Parameter& head_weight() { return head ? *head : embedding; }
  HeadLoss head_loss() { return {head_weight(), plan.compute, plan.logits_bytes}; }
  bool keeps(const ForwardContext& context, size_t block) const {
    return context.training && block >= lowest_trained;
  }
  void start(ForwardContext& context, const MicroBatch& batch) const;
  Tensor run_blocks(ForwardContext& context) const;
  void finish(ForwardContext& context, const Tensor& x) const;
  int64_t tail() const;  // columns that some block wants behind the gradient of its output

  Arena* arena;
  ModelPlan plan;
  float eps;
  Parameter embedding;
  std::vector<std::unique_ptr<TransformerBlock>> blocks;
  Parameter final_norm;
  std::optional<Parameter> head;  // none: tied to the embedding
  Tensor inverse_frequencies;     // (D / 2)
  size_t lowest_trained = 0;      // backward ends with this block; blocks.size(): none is trained
};

CausalLm::State::State(const ModelConfig& config, const ModelFamily& family,
                       const ParameterLoader& loader, const ModelPlan& plan_in, Arena& arena_in,
                       Stream& stream)
    : arena(&arena_in), plan(plan_in), eps(static_cast<float>(config.rms_norm_eps)) {
  const Shape table{config.vocab_size, config.hidden_size};
  const WeightNames& names = family.names;
  embedding =
      loader.dense(names.embedding, table, ParameterRole::kEmbedding, ShardSpec::sharded(0));
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    blocks.push_back(std::make_unique<TransformerBlock>(config, family, i, loader));
  }
  final_norm = loader.dense(names.final_norm, {config.hidden_size}, ParameterRole::kNorm,
                            ShardSpec::replicated());
  if (!config.tie_word_embeddings) {
    head = loader.dense(names.head, table, ParameterRole::kHead, ShardSpec::sharded(0));
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
  rankwise::embedding(x, context.ids, embedding.dense(), *context.stream);
  context.blocks.resize(blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
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

CausalLm::CausalLm(const ModelConfig& config, const WeightSource& source, const ModelPlan& plan,
                   const DeviceMesh& mesh, Arena& arena, Stream& stream)
    : config_(config) {
  if (mesh.tensor().size() > 1) {
    throw ConfigError(
        fmt::format("parallel.tensor: {} is not supported, only 1", mesh.tensor().size()));
  }
  if (stream.is_cuda() && config.head_dim > kMaxGpuHeadDim) {
    throw ConfigError(fmt::format("device: attention on a GPU takes heads of at most {}, {} has {}",
                                  kMaxGpuHeadDim, source.description(), config.head_dim));
  }
  set_matmul_tuning(stream, !plan.deterministic);
  const ParameterLoader loader(source, plan, arena, stream);
  state_ = std::make_unique<State>(config, family_of(config.model_type, source.description()),
                                   loader, plan, arena, stream);
}

CausalLm::~CausalLm() = default;

DType CausalLm::compute() const { return state_->plan.compute; }

ForwardContext CausalLm::begin(const MicroBatch& batch, bool training, uint64_t step,
                               Stream& stream) {
  ForwardContext context(*state_->arena, stream, state_->plan, training, step);
  state_->start(context, batch);
  return context;
}

void CausalLm::run(ForwardContext& context) {
  state_->finish(context, state_->run_blocks(context));
}

ForwardContext CausalLm::forward(const MicroBatch& batch, bool training, uint64_t step,
                                 Stream& stream) {
  ForwardContext context = begin(batch, training, step, stream);
  run(context);
  return context;
}

void CausalLm::loss(ForwardContext& context, const Tensor& sums, Stream&) {
  state_->head_loss().compute(context, sums);
}

std::vector<bool> CausalLm::chunks_with_targets(const ForwardContext& context) const {
  return state_->head_loss().chunks_with_targets(context);
}

void CausalLm::backward(ForwardContext& context, GradientReducer& reducer, Stream& stream) {
  State& state = *state_;
  RW_ASSERT(context.training && context.dhidden.defined(), "backward without loss in training");
  if (state.head && state.head->trainable) reducer.ready(*state.head, stream);
  const Columns d_columns =  // (T, C)
      context.allocate_columns(true, {{context.hidden.dim(1)}}, state.tail());
  const Tensor& d = d_columns.parts[0];
  Parameter& norm = state.final_norm;
  rms_norm_backward(d, norm.trainable ? norm.gradient : Tensor{}, context.dhidden,
                    context.final_input, norm.dense(), context.final_inv_rms, false, stream);
  if (norm.trainable) reducer.ready(norm, stream);
  for (size_t i = state.blocks.size(); i-- > state.lowest_trained;) {
    const auto recomputed = state.arena->scope("activations");
    BlockSaved& saved = *context.blocks[i];
    if (state.plan.recompute == Recompute::kFull) {
      const auto workspace = state.arena->scope("workspace");
      const Tensor output = context.allocate_workspace(context.compute, d.shape());
      state.blocks[i]->forward(output, saved.input, saved, context);
    }
    const bool wants_input_gradient = i > state.lowest_trained || state.embedding.trainable;
    state.blocks[i]->backward(d_columns, wants_input_gradient, saved, context, reducer);
  }
  if (state.embedding.trainable) {
    embedding_backward(state.embedding.gradient, d, context.ids, stream);
    reducer.ready(state.embedding, stream);
  }
}

Tensor CausalLm::logits(ForwardContext& context, int64_t begin, int64_t end, Stream& stream) {
  const Shape shape{end - begin, config_.vocab_size};
  const Tensor out = context.allocate(DType::kF32, shape);
  const auto workspace = state_->arena->scope("workspace");
  const bool narrow = context.compute != DType::kF32;
  const Tensor y = narrow ? context.allocate_workspace(context.compute, shape) : out;
  linear(y, context.hidden.rows(begin, end), state_->head_weight().weight, 0.0f, stream);
  if (narrow) cast(out, y, stream);
  return out;
}

std::vector<float> CausalLm::next_token_logits(std::span<const int32_t> ids, KvCache& cache,
                                               Stream& stream) {
  RW_ASSERT(!ids.empty(), "no token");
  const auto scope = state_->arena->scope("activations");
  MicroBatch batch;
  batch.input_ids.assign(ids.begin(), ids.end());
  batch.targets.assign(ids.size(), kIgnoredLabel);
  batch.positions.resize(ids.size());
  std::iota(batch.positions.begin(), batch.positions.end(), static_cast<int32_t>(cache.tokens()));
  batch.document_offsets = {0, static_cast<int32_t>(ids.size())};

  ForwardContext context = begin(batch, /*training=*/false, /*step=*/0, stream);
  context.cache = &cache;
  context.longest_key = cache.tokens() + context.tokens;
  const std::array<int32_t, 2> keys{0, static_cast<int32_t>(context.longest_key)};
  context.key_offsets =
      uploaded(std::span<const int32_t>(keys), "activations", *state_->arena, stream);
  run(context);
  cache.advance(context.tokens);

  const Tensor last = logits(context, context.tokens - 1, context.tokens, stream);
  std::vector<float> out(state_->arena->measuring() ? 0 : static_cast<size_t>(last.numel()));
  download(out.data(), last, stream);
  return out;
}

std::vector<Parameter*> CausalLm::parameters() {
  std::vector<Parameter*> out{&state_->embedding};
  for (auto& block : state_->blocks) block->collect_parameters(out);
  out.push_back(&state_->final_norm);
  if (state_->head) out.push_back(&*state_->head);
  return out;
}

std::vector<Parameter*> CausalLm::trained_parameters() {
  std::vector<Parameter*> out;
  if (state_->head && state_->head->trainable) out.push_back(&*state_->head);
  if (state_->final_norm.trainable) out.push_back(&state_->final_norm);
  for (size_t i = state_->blocks.size(); i-- > 0;) {
    state_->blocks[i]->collect_trained_parameters(out);
  }
  if (state_->embedding.trainable) out.push_back(&state_->embedding);
  return out;
}

std::vector<std::pair<std::string, Adapter*>> CausalLm::adapters() {
  std::vector<std::pair<std::string, Adapter*>> out;
  for (auto& block : state_->blocks) {
    for (Linear* linear : block->linears()) {
      if (linear->adapter() != nullptr) out.emplace_back(linear->site().module, linear->adapter());
    }
  }
  return out;
}

}  // namespace rankwise
