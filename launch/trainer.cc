// SPDX-License-Identifier: Apache-2.0
#include "launch/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "kernels/elementwise.h"
#include "model/hf_folder.h"
#include "optim/adamw8bit_optimizer.h"
#include "optim/sgd_optimizer.h"

namespace rankwise {
namespace {

// Micro-batches with more work than this hide the time that launching takes.
constexpr double kMostReplayedFlops = 1e13;

// For gradients of whole weights that are refreshed together.
constexpr int64_t kWholeGradientBytes = 1 << 30;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// A recorded micro-batch is replayed in any step: no dropout, whose masks depend on the step, and
// no norms of rows, which are made in the first micro-batch of a step.
bool depends_on_shapes_only(const AdaptRule& rule) {
  return rule.dropout == 0 && rule.method != AdaptMethod::kDora;
}

bool is_factor(const Parameter& parameter) {
  return parameter.role == ParameterRole::kLoraA || parameter.role == ParameterRole::kLoraE ||
         parameter.role == ParameterRole::kLoraB;
}

}  // namespace

Trainer::Trainer(const TrainConfig& config, const ModelFiles& files, const Adaptation& adaptation,
                 const DeviceMesh& mesh, Arena& arena, Stream& stream, int64_t total_steps)
    : arena_(&arena),
      stream_(&stream),
      mesh_(&mesh),
      model_(files.config, *files.weights, adaptation.plan(arena, stream), mesh, arena, stream),
      groups_(adaptation.groups(model_)),
      optimizer_(make_optimizer(config.optim, adaptation)),
      reducer_(model_.trained_parameters(), mesh, arena),
      schedule_(config.optim.schedule, config.optim.lr, config.optim.min_lr,
                config.optim.warmup.steps(total_steps), total_steps),
      guard_(config.guard),
      flops_(model_, mesh.tensor().size()),
      max_grad_norm_(config.optim.max_grad_norm),
      replays_(stream.is_cuda() && !stream.measuring() && mesh.world().size() == 1 &&
               std::ranges::all_of(config.adapt, depends_on_shapes_only)),
      sums_(arena.allocate("metrics", DType::kF64, {3})),
      norm_sums_(arena.allocate("metrics", DType::kF64, {2})) {
  if (!arena.measuring()) adaptation.load_starting_points(model_, stream);
  if (adaptation.adalora() != nullptr) start_adalora(*adaptation.adalora(), total_steps);
}

// Before gradients are allocated, whose shapes depend on it.
std::unique_ptr<Optimizer> Trainer::make_optimizer(const OptimSection& section,
                                                   const Adaptation& adaptation) {
  AdamWOptions options{section.betas[0], section.betas[1], section.eps};
  const AdaLoraSection* adalora = adaptation.adalora();
  if (adalora != nullptr) options.importance = {is_factor, adalora->beta1, adalora->beta2};
  const OptimizerFactory inner =
      [&](std::span<const ParameterGroup> groups) -> std::unique_ptr<Optimizer> {
    if (section.name == OptimizerName::kAdamW8bit) {
      return std::make_unique<AdamW8bitOptimizer>(groups, options, *arena_, *stream_);
    }
    if (section.name == OptimizerName::kSgd) {
      return std::make_unique<SgdOptimizer>(groups, SgdOptions{section.momentum}, *arena_,
                                            *stream_);
    }
    return std::make_unique<AdamWOptimizer>(groups, options, *arena_, *stream_);
  };
  return adaptation.projects() ? make_projected_optimizer(adaptation, inner) : inner(groups_);
}

std::unique_ptr<Optimizer> Trainer::make_projected_optimizer(const Adaptation& adaptation,
                                                             const OptimizerFactory& inner) {
  auto projected = std::make_unique<ProjectedOptimizer>(groups_, adaptation.projection_rule(),
                                                        inner, *mesh_, *arena_, *stream_);
  const std::vector<Parameter*> parameters = model_.trained_parameters();
  for (Parameter* parameter : parameters) {
    parameter->projection = projected->projection_of(*parameter);
    parameter->projected_spec = projected->gradient_spec(*parameter);
  }
  refresh_ = std::make_unique<SubspaceRefresh>(*projected, parameters, kWholeGradientBytes, *mesh_,
                                               *arena_, model_.compute());
  return projected;
}

void Trainer::start_adalora(const AdaLoraSection& section, int64_t total_steps) {
  std::vector<SingularTriplets> triplets;
  for (const auto& [module, adapter] : model_.adapters()) {
    SingularTriplets matrix{.name = module};
    for (const Parameter* parameter : adapter->parameters()) {
      if (parameter->role == ParameterRole::kLoraA) matrix.a = parameter;
      if (parameter->role == ParameterRole::kLoraE) matrix.e = parameter;
      if (parameter->role == ParameterRole::kLoraB) matrix.b = parameter;
    }
    triplets.push_back(matrix);
  }
  const RankScheduleOptions schedule{.init_rank = section.init_rank,
                                     .target_rank = section.target_rank,
                                     .warmup = section.warmup.steps(total_steps),
                                     .final = section.final.steps(total_steps),
                                     .interval = section.interval,
                                     .beta1 = section.beta1,
                                     .beta2 = section.beta2};
  adalora_ = std::make_unique<AdaLora>(triplets, AdaLoraTraining{schedule, section.orth_weight},
                                       total_steps, static_cast<AdamWOptimizer&>(*optimizer_),
                                       *mesh_, *arena_, *stream_);
}

StepMeasurement Trainer::train_step(int64_t step, std::span<const MicroBatch> batches) {
  const auto begin = std::chrono::steady_clock::now();
  const int64_t wire_bytes_before = mesh_->wire_bytes();
  StepMeasurement result;
  std::vector<SubspaceRefresh::Round> rounds;
  if (refresh_) rounds = refresh_->rounds();
  bool accepted = true;
  if (rounds.size() > 1) {
    for (const auto& round : rounds) {
      accepted = accepted && backward_pass(step, batches, round, result);
    }
  }
  if (accepted && rounds.size() > 1) {
    StepMeasurement refreshed;
    refreshed.refresh_seconds = result.refresh_seconds;
    refreshed.without_basis = std::move(result.without_basis);
    result = std::move(refreshed);
    rounds.clear();
  }
  accepted =
      accepted &&
      backward_pass(step, batches, rounds.empty() ? SubspaceRefresh::Round{} : rounds[0], result) &&
      update(step, batches, result);
  result.learning_rate = schedule_.at(step);
  result.skipped = !accepted;
  if (result.skipped && adalora_ && adalora_->after_skip(step, *stream_)) {
    model_.parameters_changed();
  }
  guard_.record(result.loss, result.gradient_norm, !result.refresh_seconds, result.skipped);
  stream_->synchronize();
  wire_bytes_ = mesh_->wire_bytes() - wire_bytes_before;
  result.compute_seconds =
      seconds_since(begin) - result.reduce_seconds - result.refresh_seconds.value_or(0.0);
  patience_ = 1;
  return result;
}

bool Trainer::backward_pass(int64_t step, std::span<const MicroBatch> batches,
                            const SubspaceRefresh::Round& round, StepMeasurement& result) {
  if (refresh_) refresh_->begin(round, *stream_);
  micro_batches(step, batches, /*reduces=*/true);
  for (const MicroBatch& batch : batches) {
    result.tokens += batch.tokens();
    result.flops += flops_.training(batch);
  }
  stream_->synchronize();
  const auto backward_end = std::chrono::steady_clock::now();
  const int64_t tokens = reducer_.finish_step(*stream_);
  mesh_->data().all_reduce(sums_, ReduceOp::kSum, "loss sums", *stream_);
  result.reduce_seconds = seconds_since(backward_end);
  if (round.empty()) return true;
  const bool refreshed =
      refresh_->finish(round, tokens, *stream_, [&](const Tensor& whole_gradients) {
        result.gradient_norm = std::nan("");  // not known before
        const double norm = norm_of({whole_gradients, reducer_.flat()});
        return may_update(step, batches, norm, /*compares_norm=*/false, result);
      });
  for (const Parameter* parameter : refresh_->without_basis(round, *stream_)) {
    result.without_basis.push_back(parameter->name);
  }
  stream_->synchronize();
  result.refresh_seconds =
      result.refresh_seconds.value_or(0.0) + seconds_since(backward_end) - result.reduce_seconds;
  return refreshed;
}

void Trainer::micro_batches(int64_t step, std::span<const MicroBatch> batches, bool reduces) {
  const std::string name = fmt::format("step {}{}", step + 1, reduces ? "" : " once more");
  mesh_->world().activity().report(name, patience_, /*repeats=*/true);
  fill(sums_, 0.0f, *stream_);
  reducer_.begin_step(*stream_);
  for (const MicroBatch& batch : batches) {
    if (&batch != batches.data()) {
      const auto done = &batch - batches.data();
      mesh_->world().activity().report(fmt::format("{}, micro-batch {}", name, done + 1), patience_,
                                       /*repeats=*/true);
    }
    const Arena::Scope activations = arena_->scope("activations");
    reducer_.begin_micro_batch(batch.trained_tokens, reduces && &batch == &batches.back());
    forward_backward(batch, static_cast<uint64_t>(step));
  }
}

void Trainer::forward_backward(const MicroBatch& batch, uint64_t step) {
  ForwardContext context = model_.begin(batch, /*training=*/true, step, *stream_);
  const auto work = [&] {
    model_.run(context);
    model_.loss(context, sums_, *stream_);
    model_.backward(context, reducer_, *stream_);
  };
  // (a pass that leaves whole gradients is another one)
  const bool refreshes = refresh_ && refresh_->is_open();
  if (!replays_ || refreshes || flops_.training(batch) > kMostReplayedFlops) return work();
  const StepGraphs::Key key{context.tokens,           batch.documents(),
                            context.longest_document, context.ids.raw(),
                            stream_->scratch_bytes(), model_.chunks_with_targets(context)};
  if (!graphs_.run(key, work, *stream_)) return;
  for (const Parameter* parameter : reducer_.parameters()) reducer_.ready(*parameter, *stream_);
}

bool Trainer::update(int64_t step, std::span<const MicroBatch> batches, StepMeasurement& result) {
  if (adalora_) adalora_->add_regulariser(*stream_);
  const ClipResult clip = clip_gradients(groups_, max_grad_norm_, *mesh_, norm_sums_, *stream_);
  result.gradient_norm = clip.norm;
  if (!may_update(step, batches, clip.norm, !result.refresh_seconds, result)) return false;
  if (adalora_) {
    result.orthogonality_loss = adalora_->regulariser(*stream_);
    adalora_->before_update(step);
  }
  optimizer_->step(groups_, schedule_.at(step), clip.scale, *stream_);
  if (adalora_) adalora_->after_update(step, *stream_);
  model_.parameters_changed();
  return true;
}

int64_t Trainer::trained_elements() const {
  std::map<std::string, int64_t> whole;
  for (const auto& [name, shape] : weight_shapes(model_.config())) whole[name] = shape.numel();
  int64_t elements = 0;
  for (const Parameter* parameter : reducer_.parameters()) {
    const bool split = parameter->spec.kind == ShardSpec::Kind::kSharded;
    elements += split ? whole.at(parameter->name) : shape_of(parameter->weight).numel();
  }
  return elements;
}

}  // namespace rankwise
