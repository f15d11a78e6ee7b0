// SPDX-License-Identifier: Apache-2.0
#include "model/causal_lm.h"

#include <array>
#include <numeric>
#include <utility>

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "model/causal_lm_state.h"
#include "model/kv_cache.h"
#include "model/weight_gradient.h"

namespace rankwise {

CausalLm::CausalLm(const ModelConfig& config, const WeightSource& source, const ModelPlan& plan,
                   const DeviceMesh& mesh, Arena& arena, Stream& stream)
    : config_(config) {
  check_tensor_size(config, mesh.tensor().size());
  if (stream.is_cuda() && config.head_dim > kMaxGpuHeadDim) {
    throw ConfigError(fmt::format("device: attention on a GPU takes heads of at most {}, {} has {}",
                                  kMaxGpuHeadDim, source.description(), config.head_dim));
  }
  set_matmul_tuning(stream, !plan.deterministic);
  const ParameterLoader loader(source, plan, mesh, arena, stream);
  state_ = std::make_unique<State>(config, family_of(config.model_type, source.description()),
                                   loader, plan, mesh, arena, stream);
}

CausalLm::~CausalLm() = default;

const DeviceMesh& CausalLm::mesh() const { return *state_->mesh; }

DType CausalLm::compute() const { return state_->plan.compute; }

int64_t CausalLm::key_value_heads() const { return state_->blocks.front()->key_value_heads(); }

ForwardContext CausalLm::begin(const MicroBatch& batch, bool training, uint64_t step,
                               Stream& stream) {
  ForwardContext context(*state_->arena, stream, state_->mesh->tensor(), state_->plan, training,
                         step);
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
  const bool hands_in = norm.trainable && context.tensor_ranks->rank() == 0;
  rms_norm_backward(d, hands_in ? norm.gradient : Tensor{}, context.dhidden, context.final_input,
                    norm.dense(), context.final_inv_rms, false, stream);
  if (norm.trainable) reducer.ready(norm, stream);
  for (size_t i = state.blocks.size(); i-- > state.lowest_trained;) {
    if (state.gatherer) {
      state.gatherer->use(i, i > state.lowest_trained ? std::optional(i - 1) : std::nullopt);
    }
    const auto recomputed = state.arena->scope("activations");
    BlockSaved& saved = *context.blocks[i];
    if (state.plan.recompute == Recompute::kFull) {
      const auto workspace = state.arena->scope("workspace");
      const Tensor again = context.allocate_workspace(context.compute, d.shape());
      const Tensor output = saved.output;
      state.blocks[i]->forward(again, saved.input, saved, context);
      saved.output = output;
    }
    const bool wants_input_gradient = i > state.lowest_trained || state.embedding.trainable;
    state.blocks[i]->backward(d_columns, wants_input_gradient, saved, context, reducer);
  }
  if (state.embedding.trainable) {
    accumulate_embedding_gradient(state.embedding, d, context.ids, state.vocabulary.begin,
                                  *state.arena, stream);
    reducer.ready(state.embedding, stream);
  }
}

Tensor CausalLm::logits(ForwardContext& context, int64_t begin, int64_t end, Stream& stream) {
  const Shape shape{end - begin, config_.vocab_size};
  const Tensor out = context.allocate(DType::kF32, shape);
  const auto workspace = state_->arena->scope("workspace");
  const bool narrow = context.compute != DType::kF32;
  const Tensor y = narrow ? context.allocate_workspace(context.compute, shape) : out;
  const ShardSpec::Range own = state_->vocabulary;
  const bool split = context.tensor_ranks->size() > 1;
  if (split) fill(y, 0.0f, stream);
  linear(y.columns(own.begin, own.end), context.hidden.rows(begin, end),
         state_->head_weight().weight, 0.0f, stream);
  if (split) context.tensor_ranks->all_reduce(y, ReduceOp::kSum, "logits", stream);
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

void CausalLm::parameters_changed() {
  for (const auto& [module, adapter] : adapters()) adapter->parameters_changed();
}

}  // namespace rankwise
