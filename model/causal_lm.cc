// SPDX-License-Identifier: Apache-2.0
#include "model/causal_lm.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "kernels/cross_entropy.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "model/kv_cache.h"
#include "model/transformer_block.h"

namespace rankwise {
namespace {

constexpr int64_t kLogitsBytes = 32 << 20;  // of one chunk of the loss

template <class T>
Tensor upload(std::span<const T> values, std::string_view purpose, Arena& arena) {
  const Tensor out =
      arena.allocate(purpose, dtype_of<T>(), Shape{static_cast<int64_t>(values.size())});
  if (!arena.measuring()) std::memcpy(out.raw(), values.data(), values.size_bytes());
  return out;
}

}  // namespace

struct CausalLm::State {
  State(const ModelConfig& config, const ModelFamily& family, const ParameterLoader& loader,
        const ModelPlan& plan, Arena& arena_in);

  const Parameter& head_weight() const { return head ? *head : embedding; }
  Parameter& head_weight() { return head ? *head : embedding; }
  bool keeps(const ForwardContext& context, size_t block) const {
    return context.training && block >= lowest_trained;
  }
  void start(ForwardContext& context, const MicroBatch& batch) const;
  void start_rope(ForwardContext& context, std::span<const int32_t> positions) const;
  Tensor run_blocks(ForwardContext& context) const;
  void finish(ForwardContext& context, const Tensor& x) const;
  void loss_of_chunk(ForwardContext& context, const Tensor& sums, int64_t begin, int64_t end);

  Arena* arena;
  uint64_t seed;
  Recompute recompute;
  float eps;
  Parameter embedding;
  std::vector<std::unique_ptr<TransformerBlock>> blocks;
  Parameter final_norm;
  std::optional<Parameter> head;  // none: tied to the embedding
  Tensor inverse_frequencies;     // (D / 2)
  size_t lowest_trained = 0;      // backward ends with this block; blocks.size(): none is trained
};

CausalLm::State::State(const ModelConfig& config, const ModelFamily& family,
                       const ParameterLoader& loader, const ModelPlan& plan, Arena& arena_in)
    : arena(&arena_in),
      seed(plan.seed),
      recompute(plan.recompute),
      eps(static_cast<float>(config.rms_norm_eps)) {
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
      upload(std::span<const float>(rope_inverse_frequencies(config)), "weights", *arena);
  if (!embedding.trainable) {
    const auto first = std::ranges::find_if(blocks, [](const auto& b) { return b->trained(); });
    lowest_trained = static_cast<size_t>(first - blocks.begin());
  }
}

void CausalLm::State::start(ForwardContext& context, const MicroBatch& batch) const {
  RW_ASSERT(batch.tokens() > 0 && batch.document_offsets.size() >= 2, "{} tokens", batch.tokens());
  context.tokens = batch.tokens();
  context.first_token = batch.first_token;
  context.ids = upload(std::span(batch.input_ids), "activations", *arena);
  context.targets = upload(std::span(batch.targets), "activations", *arena);
  context.document_offsets = upload(std::span(batch.document_offsets), "activations", *arena);
  context.key_offsets = context.document_offsets;
  context.longest_document = batch.longest_document();
  context.longest_key = context.longest_document;
  start_rope(context, batch.positions);
}

void CausalLm::State::start_rope(ForwardContext& context,
                                 std::span<const int32_t> positions) const {
  const Shape shape{context.tokens, inverse_frequencies.dim(0)};
  context.rope_cos = context.allocate(DType::kF32, shape);
  context.rope_sin = context.allocate(DType::kF32, shape);
  const auto workspace = arena->scope("workspace");
  rope_tables(context.rope_cos, context.rope_sin, upload(positions, "workspace", *arena),
              inverse_frequencies, *context.stream);
}

// Blocks whose backward pass will run write their output to new memory; all others work in place.
// What a block saves is dropped at once unless backward will read it; with recomputation, backward
// computes it again from the block's input.
Tensor CausalLm::State::run_blocks(ForwardContext& context) const {
  const Shape shape{context.tokens, embedding.dense().dim(1)};
  Tensor x = context.allocate(DType::kF32, shape);
  rankwise::embedding(x, context.ids, embedding.dense(), *context.stream);
  context.blocks.resize(blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    context.blocks[i] = std::make_unique<BlockSaved>();
    const bool kept = keeps(context, i);
    const Tensor output = kept ? context.allocate(DType::kF32, shape) : x;
    if (kept && recompute == Recompute::kNone) {
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
  context.hidden = context.allocate(DType::kF32, x.shape());
  rms_norm(context.hidden, context.final_inv_rms, x, final_norm.dense(), eps, *context.stream);
}

void CausalLm::State::loss_of_chunk(ForwardContext& context, const Tensor& sums, int64_t begin,
                                    int64_t end) {
  Stream& stream = *context.stream;
  const Tensor targets = context.targets.rows(begin, end);
  const Tensor dhidden = context.training ? context.dhidden.rows(begin, end) : Tensor{};
  if (!context.arena->measuring()) {
    const std::span chunk(targets.data<int32_t>(), static_cast<size_t>(end - begin));
    if (std::ranges::all_of(chunk, [](int32_t target) { return target < 0; })) {
      if (context.training) fill(dhidden, 0.0f, stream);
      return;
    }
  }
  Parameter& head_parameter = head_weight();
  const Tensor hidden = context.hidden.rows(begin, end);
  const auto workspace = arena->scope("workspace");
  const Tensor logits = context.allocate_workspace(
      DType::kF32, {end - begin, shape_of(head_parameter.weight).dim(0)});
  linear(logits, hidden, head_parameter.weight, 0.0f, stream);
  cross_entropy(logits, targets, sums, context.training, stream);
  if (!context.training) return;
  linear_backward_input(dhidden, logits, head_parameter.weight, 0.0f, stream);
  if (head_parameter.trainable) {
    linear_backward_weight(head_parameter.gradient, logits, hidden, stream);
  }
}

CausalLm::CausalLm(const ModelConfig& config, const WeightSource& source, const ModelPlan& plan,
                   const DeviceMesh& mesh, Arena& arena, Stream& stream)
    : config_(config) {
  if (mesh.tensor().size() > 1) {
    throw ConfigError(
        fmt::format("parallel.tensor: {} is not supported, only 1", mesh.tensor().size()));
  }
  const ParameterLoader loader(source, plan, arena, stream);
  state_ = std::make_unique<State>(config, family_of(config.model_type, source.description()),
                                   loader, plan, arena);
}

CausalLm::~CausalLm() = default;

ForwardContext CausalLm::forward(const MicroBatch& batch, bool training, uint64_t step,
                                 Stream& stream) {
  ForwardContext context(*state_->arena, stream, training, state_->seed, step);
  state_->start(context, batch);
  state_->finish(context, state_->run_blocks(context));
  return context;
}

void CausalLm::loss(ForwardContext& context, const Tensor& sums, Stream&) {
  if (context.training) context.dhidden = context.allocate(DType::kF32, context.hidden.shape());
  const int64_t row_bytes = config_.vocab_size * static_cast<int64_t>(sizeof(float));
  const int64_t chunk = std::max<int64_t>(1, kLogitsBytes / row_bytes);
  for (int64_t begin = 0; begin < context.tokens; begin += chunk) {
    state_->loss_of_chunk(context, sums, begin, std::min(begin + chunk, context.tokens));
  }
}

void CausalLm::backward(ForwardContext& context, GradientReducer& reducer, Stream& stream) {
  State& state = *state_;
  RW_ASSERT(context.training && context.dhidden.defined(), "backward without loss in training");
  if (state.head && state.head->trainable) reducer.ready(*state.head, stream);
  const Tensor d = context.allocate(DType::kF32, context.hidden.shape());  // (T, C)
  Parameter& norm = state.final_norm;
  rms_norm_backward(d, norm.trainable ? norm.gradient : Tensor{}, context.dhidden,
                    context.final_input, norm.dense(), context.final_inv_rms, false, stream);
  if (norm.trainable) reducer.ready(norm, stream);
  for (size_t i = state.blocks.size(); i-- > state.lowest_trained;) {
    const auto recomputed = state.arena->scope("activations");
    BlockSaved& saved = *context.blocks[i];
    if (state.recompute == Recompute::kFull) {
      const auto workspace = state.arena->scope("workspace");
      const Tensor output = context.allocate_workspace(DType::kF32, d.shape());
      state.blocks[i]->forward(output, saved.input, saved, context);
    }
    const bool wants_input_gradient = i > state.lowest_trained || state.embedding.trainable;
    state.blocks[i]->backward(d, wants_input_gradient, saved, context, reducer);
  }
  if (state.embedding.trainable) {
    embedding_backward(state.embedding.gradient, d, context.ids, stream);
    reducer.ready(state.embedding, stream);
  }
}

Tensor CausalLm::logits(ForwardContext& context, int64_t begin, int64_t end, Stream& stream) {
  const Tensor out = context.allocate(DType::kF32, {end - begin, config_.vocab_size});
  linear(out, context.hidden.rows(begin, end), state_->head_weight().weight, 0.0f, stream);
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

  ForwardContext context(*state_->arena, stream, false, state_->seed, 0);
  state_->start(context, batch);
  context.cache = &cache;
  context.longest_key = cache.tokens() + context.tokens;
  const std::array<int32_t, 2> keys{0, static_cast<int32_t>(context.longest_key)};
  context.key_offsets = upload(std::span<const int32_t>(keys), "activations", *state_->arena);
  state_->finish(context, state_->run_blocks(context));
  cache.advance(context.tokens);

  const Tensor last = logits(context, context.tokens - 1, context.tokens, stream);
  stream.synchronize();
  if (state_->arena->measuring()) return {};
  return {last.data<float>(), last.data<float>() + last.numel()};
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
