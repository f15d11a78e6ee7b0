// SPDX-License-Identifier: Apache-2.0
#include "launch/training_run.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <ostream>

#include "kernels/gpu_ceiling.h"
#include "kernels/machine_ceiling.h"
#include "launch/version.h"
#include "model/hf_folder.h"
#include "model/merged_weights.h"
#include "runtime/io/sha256.h"

namespace rankwise {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Replacing a run must not remove what the new one stands on.
void require_kept(const std::string& folder, std::string_view key, const std::string& path) {
  if (!RunFolder::overwrites(folder, path)) return;
  throw ConfigError(fmt::format("{}: '{}' belongs to the run in {} that --overwrite would remove",
                                key, path, folder));
}

// On a GPU with memory of its own, given back before the run takes its own.
double measure_peak_flops_per_s(Device device, DType compute) {
  if constexpr (kHasCuda) {
    if (device.is_cuda()) {
      Stream stream(device);
      const GpuCeiling ceiling = measure_gpu_ceiling(stream);
      return (compute == DType::kBF16 ? ceiling.bf16_tflops : ceiling.fp32_tflops) * 1e12;
    }
  }
  return measure_multiply_add_gflops() * 1e9;
}

}  // namespace

TrainingRun::TrainingRun(const TrainConfig& config, VerbContext& context)
    : config_(config),
      context_(&context),
      device_(choose_device(config.device, context.world, context.local_rank)),
      compute_(choose_compute(config.model.compute, device_)),
      mesh_(context.world, static_cast<int>(config.parallel.tensor), device_),
      files_(open_base(config)),
      adaptation_(config_, files_.config),
      data_(load_training_data(config, files_, DataParts::kTrainAndEval)),
      loader_(make_loader(config, data_.train, mesh_)),
      total_steps_(total_steps(config, loader_)),
      memory_(make_memory_plan()),
      arena_(device_),
      stream_(device_) {
  config_.device = device_.is_cuda() ? DeviceChoice::kCuda : DeviceChoice::kCpu;
  config_.model.compute = compute_ == DType::kBF16 ? ComputeType::kBf16 : ComputeType::kFp32;
  config_.train.recompute = memory_.recompute;
}

// The same on all ranks: what the poorest of them can afford.
MemoryPlan TrainingRun::make_memory_plan() const {
  const auto own =
      static_cast<double>(available_bytes(device_, context_->local_size, context_->world.size()));
  const double least =
      all_reduce_numbers(context_->world, {own}, ReduceOp::kMin, "available memory")[0];
  const auto plan = [&](const TrainConfig& config) {
    return plan_memory(config, files_, mesh_, largest_micro_batch(config, *data_.train),
                       total_steps_, device_, static_cast<int64_t>(least));
  };
  MemoryPlan own_plan = plan(config_);
  const auto choice = static_cast<double>(own_plan.recompute);
  const double strictest =
      all_reduce_numbers(context_->world, {choice}, ReduceOp::kMax, "choice of recomputation")[0];
  if (strictest == choice) return own_plan;
  TrainConfig config = config_;
  config.train.recompute = static_cast<Recompute>(static_cast<int>(strictest));
  return plan(config);
}

std::string TrainingRun::describe_plan() const {
  const int ranks = mesh_.data().size();
  std::string text = fmt::format("train data   {}\n", describe(data_.train->report));
  if (data_.eval) text += fmt::format("eval data    {}\n", describe(data_.eval->report));
  text += fmt::format(
      "steps        {} of {} rows: {} data rank(s) x {} micro-batch(es) of {} row(s), {:.2f} "
      "epoch(s)\n",
      total_steps_, config_.train.global_batch, ranks,
      config_.train.global_batch / (config_.train.micro_batch * ranks), config_.train.micro_batch,
      loader_.epochs_at(total_steps_));
  text += fmt::format("device       {}, {}, {}\n", describe_device(device_), compute_name(),
                      describe_mesh());
  return text + memory_.table();
}

std::string TrainingRun::describe_mesh() const {
  std::string text = fmt::format("{} rank(s)", mesh_.world().size());
  if (mesh_.tensor().size() > 1) {
    text += fmt::format(" (data {} x tensor {})", mesh_.data().size(), mesh_.tensor().size());
  }
  return text;
}

EvaluationResult TrainingRun::evaluate(Trainer& trainer, int64_t max_batches) {
  context_->world.activity().report("evaluate", kFilePatience);
  return evaluate_loss(trainer.model(), make_eval_batches(config_, *data_.eval, mesh_, max_batches),
                       mesh_, arena_, stream_);
}

void TrainingRun::require_free_folder(bool overwrite) const {
  if (!is_root()) return;
  const std::string& folder = config_.checkpoint.dir;
  RunFolder::require_free(folder, overwrite);
  if (!overwrite) return;
  require_kept(folder, "model.path", config_.model.path);
  for (size_t i = 0; i < config_.adapt.size(); ++i) {
    const auto& from = config_.adapt[i].from;
    if (from) require_kept(folder, fmt::format("adapt.{}.from", i), *from);
  }
}

void TrainingRun::run(bool overwrite) {
  require_free_folder(overwrite);
  try {
    train_and_export(overwrite);
  } catch (const OutOfMemoryError& error) {
    const bool can_recompute = config_.train.recompute != Recompute::kFull;
    throw OutOfMemoryError(fmt::format("{}; less is needed with {}a smaller train.micro_batch",
                                       error.what(),
                                       can_recompute ? "train.recompute: full or " : ""));
  }
}

void TrainingRun::train_and_export(bool overwrite) {
  const auto begin = Clock::now();
  Activity& activity = context_->world.activity();
  activity.report("build the model", kFilePatience);
  peak_flops_per_s_ = measure_peak_flops_per_s(device_, compute_);
  memory_.reserve(arena_, stream_);
  Trainer trainer(config_, files_, adaptation_, mesh_, arena_, stream_, total_steps_);

  std::optional<RunFolder> folder;
  std::optional<RunReporter> reporter;
  if (is_root()) {
    activity.report("digest of model and data", kFilePatience);
    folder.emplace(config_.checkpoint.dir, overwrite);
    folder->write_run_json(describe_run());
    folder->write_samples(render_samples(*data_.train, data_.tokenizer.get(), 3));
    // mpirun gives every rank a terminal of its own, wherever its output ends.
    reporter.emplace(*folder, context_->out, total_steps_, data_.eval != nullptr,
                     /*live=*/context_->world.size() == 1);
    reporter->say(fmt::format("rankwise {} on {}, {}, {}: {} of {} elements trained",
                              program_version(), describe_mesh(), describe_device(device_),
                              compute_name(), trainer.trained_elements(),
                              parameter_count(files_.config)));
    reporter->say("memory: " + memory_.summary());
    reporter->say("train data: " + describe(data_.train->report));
    if (data_.eval) reporter->say("eval data: " + describe(data_.eval->report));
  }
  train_steps(trainer, reporter ? &*reporter : nullptr);
  if (trainer.adalora() != nullptr) trainer.adalora()->allocator().check_agreement(stream_);
  activity.report("save", kFilePatience);
  Arena host;
  std::vector<NamedTensor> weights;
  if (adaptation_.trains_weights() && mesh_.data().rank() == 0) {
    weights = base_weights(trainer.model(), host, stream_);
  }
  if (is_root()) {
    const auto results = export_result(trainer, weights, *folder);
    reporter->finish(seconds_since(begin), results);
  }
  context_->world.barrier("end of training");
}

void TrainingRun::train_steps(Trainer& trainer, RunReporter* reporter) {
  if (data_.eval) {
    const EvaluationResult before = evaluate(trainer, config_.eval.batches);
    if (reporter != nullptr) reporter->baseline(before.loss);
  }
  for (int64_t step = 0; step < total_steps_; ++step) {
    const auto step_begin = Clock::now();
    const std::vector<MicroBatch> batches = loader_.next_step();
    const double data_seconds = seconds_since(step_begin);
    const StepMeasurement measurement = trainer.train_step(step, batches);
    const double step_seconds = seconds_since(step_begin);

    const int64_t done = step + 1;
    const bool last = done == total_steps_;
    MetricsRecord record = compare_ranks(done, measurement, data_seconds, step_seconds);
    record.wire_bytes = trainer.wire_bytes();
    record.orth_loss = measurement.orthogonality_loss;
    if (trainer.adalora() != nullptr) {
      record.adalora_budget = trainer.adalora()->allocator().budget();
      record.adalora_active = trainer.adalora()->allocator().active();
    }
    const bool evaluates =
        data_.eval && (last || (config_.eval.every > 0 && done % config_.eval.every == 0));
    if (evaluates) record.eval_loss = evaluate(trainer, config_.eval.batches).loss;
    if (reporter == nullptr) continue;
    for (const std::string& weight : measurement.without_basis) {
      reporter->say(
          fmt::format("warning: step {}: {} keeps its old basis; the gradient is of too low a rank",
                      done, weight));
    }
    reporter->step(record, evaluates || last || done % config_.log.every == 0);
  }
}

MetricsRecord TrainingRun::compare_ranks(int64_t step, const StepMeasurement& measurement,
                                         double data_seconds, double step_seconds) {
  constexpr int64_t kFields = 6;
  const int64_t ranks = context_->world.size();
  const size_t peak_bytes = static_cast<size_t>(arena_.peak_bytes()) + stream_.scratch_peak_bytes();
  std::array<double, kFields> own = {measurement.compute_seconds,
                                     measurement.reduce_seconds,
                                     data_seconds,
                                     static_cast<double>(measurement.tokens),
                                     static_cast<double>(peak_bytes),
                                     measurement.refresh_seconds.value_or(0.0)};
  std::vector<double> all(static_cast<size_t>(ranks * kFields));
  Stream host;
  context_->world.all_gather(Tensor(all.data(), DType::kF64, {ranks, kFields}),
                             Tensor(own.data(), DType::kF64, {kFields}), "step metrics", host);

  MetricsRecord record;
  record.step = step;
  record.epoch = loader_.epochs_at(step);
  record.loss = measurement.loss;
  record.token_accuracy = measurement.token_accuracy;
  record.grad_norm = measurement.gradient_norm;
  record.lr = measurement.learning_rate;
  record.step_ms = step_seconds * 1e3;
  double slowest_seconds = -1.0;
  double tokens = 0.0;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const double* of_rank = all.data() + rank * kFields;
    if (of_rank[0] > slowest_seconds) {
      slowest_seconds = of_rank[0];
      record.slowest_rank = rank;
    }
    record.comm_ms = std::max(record.comm_ms, of_rank[1] * 1e3);
    record.data_wait_ms = std::max(record.data_wait_ms, of_rank[2] * 1e3);
    tokens += of_rank[3] / mesh_.tensor().size();
    if (measurement.refresh_seconds) {
      record.galore_refresh_ms = std::max(record.galore_refresh_ms.value_or(0.0), of_rank[5] * 1e3);
    }
    record.peak_bytes = std::max(record.peak_bytes, static_cast<int64_t>(of_rank[4]));
  }
  tokens_so_far_ += static_cast<int64_t>(tokens);
  record.tokens = tokens_so_far_;
  record.tokens_per_s = tokens / step_seconds;
  record.tokens_per_s_per_rank = record.tokens_per_s / static_cast<double>(ranks);
  record.mfu = measurement.flops / (step_seconds * peak_flops_per_s_);
  return record;
}

std::vector<std::pair<std::string, std::string>> TrainingRun::export_result(
    Trainer& trainer, const std::vector<NamedTensor>& weights, const RunFolder& folder) {
  std::vector<std::pair<std::string, std::string>> results;
  const TokenizerFiles tokenizer_files =
      data_.tokenizer ? data_.tokenizer->files() : TokenizerFiles{};
  if (adaptation_.has_adapters()) {
    PeftConfig peft = adaptation_.peft_config(trainer.model(), total_steps_);
    if (peft.adalora) peft.adalora->kept = trainer.adalora()->kept(stream_);
    write_peft_folder(folder.adapter_folder(), peft, trainer.model().adapters(), tokenizer_files,
                      stream_);
    results.emplace_back("adapter", folder.adapter_folder());
  }
  if (adaptation_.trains_weights()) {
    write_hf_folder(folder.file("model"), files_.config, weights, tokenizer_files,
                    /*overwrite=*/true);
    results.emplace_back("model", folder.file("model"));
  }
  return results;
}

Json TrainingRun::describe_run() const {
  Json run = version_json();
  run["config"] = config_to_json(config_);
  run["ranks"] = context_->world.size();
  run["device"] = describe_device(device_);
  run["compute"] = compute_name();
  Json data = Json::object();
  for (const auto* sources : {&config_.data.train, &config_.data.eval}) {
    for (const DataSource& source : *sources) data[source.path] = sha256_file(source.path);
  }
  run["data_sha256"] = data;
  if (config_.model.init == ModelInit::kWeights) {
    run["base_sha256"] = base_digest(config_.model.path);
  }
  return run;
}

}  // namespace rankwise
