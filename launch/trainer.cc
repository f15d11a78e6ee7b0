// SPDX-License-Identifier: Apache-2.0
#include "launch/trainer.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <map>

#include "kernels/elementwise.h"
#include "model/hf_folder.h"
#include "optim/adamw8bit_optimizer.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

// Micro-batches with more work than this hide the time that launching takes.
constexpr double kMostReplayedFlops = 1e13;

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
      reducer_(model_.trained_parameters(), mesh, arena),
      groups_(adaptation.groups(model_)),
      schedule_(config.optim.schedule, config.optim.lr, config.optim.min_lr,
                config.optim.warmup.steps(total_steps), total_steps),
      flops_(model_, mesh.tensor().size()),
      max_grad_norm_(config.optim.max_grad_norm),
      replays_(stream.is_cuda() && !stream.measuring() && mesh.world().size() == 1 &&
               std::ranges::all_of(config.adapt, depends_on_shapes_only)),
      sums_(arena.allocate("metrics", DType::kF64, {3})),
      norm_sums_(arena.allocate("metrics", DType::kF64, {2})) {
  if (!arena.measuring()) adaptation.load_starting_points(model_, stream);
  start_optimizer(config.optim, adaptation.adalora(), total_steps);
}

void Trainer::start_optimizer(const OptimSection& section, const AdaLoraSection* adalora,
                              int64_t total_steps) {
  AdamWOptions options{section.betas[0], section.betas[1], section.eps};
  if (section.name == OptimizerName::kAdamW8bit) {
    optimizer_ = std::make_unique<AdamW8bitOptimizer>(groups_, options, *arena_, *stream_);
    return;
  }
  if (adalora != nullptr) options.importance = {is_factor, adalora->beta1, adalora->beta2};
  auto adamw = std::make_unique<AdamWOptimizer>(groups_, options, *arena_, *stream_);
  if (adalora != nullptr) start_adalora(*adalora, total_steps, *adamw);
  optimizer_ = std::move(adamw);
}

void Trainer::start_adalora(const AdaLoraSection& section, int64_t total_steps,
                            AdamWOptimizer& optimizer) {
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
                                       total_steps, optimizer, *mesh_, *arena_, *stream_);
}

StepMeasurement Trainer::train_step(int64_t step, std::span<const MicroBatch> batches) {
  const auto begin = std::chrono::steady_clock::now();
  const int64_t wire_bytes_before = mesh_->wire_bytes();
  const std::string name = fmt::format("step {}", step + 1);
  mesh_->world().activity().report(name);
  StepMeasurement result;
  fill(sums_, 0.0f, *stream_);
  reducer_.begin_step(*stream_);
  for (const MicroBatch& batch : batches) {
    if (&batch != batches.data()) {
      const auto done = &batch - batches.data();
      mesh_->world().activity().report(fmt::format("{}, micro-batch {}", name, done + 1));
    }
    const Arena::Scope activations = arena_->scope("activations");
    reducer_.begin_micro_batch(batch.trained_tokens, &batch == &batches.back());
    forward_backward(batch, static_cast<uint64_t>(step));
    result.tokens += batch.tokens();
    result.flops += flops_.training(batch);
  }
  stream_->synchronize();
  const auto backward_end = std::chrono::steady_clock::now();
  reducer_.finish_step(*stream_);
  mesh_->data().all_reduce(sums_, ReduceOp::kSum, "loss sums", *stream_);
  result.reduce_seconds = seconds_since(backward_end);

  update(step, result);
  stream_->synchronize();
  wire_bytes_ = mesh_->wire_bytes() - wire_bytes_before;
  result.compute_seconds = seconds_since(begin) - result.reduce_seconds;
  return result;
}

void Trainer::update(int64_t step, StepMeasurement& result) {
  if (adalora_) adalora_->add_regulariser(*stream_);
  const ClipResult clip = clip_gradients(groups_, max_grad_norm_, *mesh_, norm_sums_, *stream_);
  result.gradient_norm = clip.norm;
  read_sums(step, result);
  result.learning_rate = schedule_.at(step);
  if (adalora_) {
    result.orthogonality_loss = adalora_->regulariser(*stream_);
    adalora_->before_update(step);
  }
  optimizer_->step(groups_, result.learning_rate, clip.scale, *stream_);
  if (adalora_) adalora_->after_update(step, *stream_);
  model_.parameters_changed();
}

void Trainer::forward_backward(const MicroBatch& batch, uint64_t step) {
  ForwardContext context = model_.begin(batch, /*training=*/true, step, *stream_);
  const auto work = [&] {
    model_.run(context);
    model_.loss(context, sums_, *stream_);
    model_.backward(context, reducer_, *stream_);
  };
  if (!replays_ || flops_.training(batch) > kMostReplayedFlops) return work();
  const StepGraphs::Key key{context.tokens,           batch.documents(),
                            context.longest_document, context.ids.raw(),
                            stream_->scratch_bytes(), model_.chunks_with_targets(context)};
  if (!graphs_.run(key, work, *stream_)) return;
  for (const Parameter* parameter : reducer_.parameters()) reducer_.ready(*parameter, *stream_);
}

void Trainer::read_sums(int64_t step, StepMeasurement& result) const {
  if (stream_->measuring()) return;
  std::array<double, 3> sums{};
  download(sums.data(), sums_, *stream_);
  result.loss = sums[0] / sums[1];
  result.token_accuracy = sums[2] / sums[1];
  if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm)) return;
  throw Error(ExitCode::kDiverged,
              fmt::format("step {}: loss {} with gradient norm {}; weights are those of step {}",
                          step + 1, result.loss, result.gradient_norm, step));
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
