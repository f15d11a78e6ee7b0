// SPDX-License-Identifier: Apache-2.0
#include "launch/training_run.h"

#include <chrono>
#include <ostream>

#include "kernels/gpu_ceiling.h"
#include "kernels/machine_ceiling.h"
#include "launch/run_state.h"
#include "launch/version.h"
#include "model/hf_folder.h"
#include "model/merged_weights.h"
#include "runtime/failpoint.h"
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

ExitCode TrainingRun::run(const TrainOptions& options) {
  const bool anew = options.resume == "none";
  if (anew) require_free_folder(options.overwrite);
  job_ = batch_job();
  job_.name = context_->world.broadcast_text(job_.name, 0, "name of the job");
  if (is_root()) lease_.emplace(config_.checkpoint.dir, job_.name);
  RunStart start = find_start(config_.checkpoint.dir, options.resume, context_->world);
  if (start.is_finished) {
    context_->out << fmt::format("{}: this run is finished\n", config_.checkpoint.dir);
    return ExitCode::kDone;
  }
  try {
    return train_and_export(std::move(start), options);
  } catch (const OutOfMemoryError& error) {
    const bool can_recompute = config_.train.recompute != Recompute::kFull;
    throw OutOfMemoryError(fmt::format("{}; less is needed with {}a smaller train.micro_batch",
                                       error.what(),
                                       can_recompute ? "train.recompute: full or " : ""));
  }
}

ExitCode TrainingRun::train_and_export(RunStart start, const TrainOptions& options) {
  Activity& activity = context_->world.activity();
  activity.report("build the model", kFilePatience);
  peak_flops_per_s_ = measure_peak_flops_per_s(device_, compute_);
  memory_.reserve(arena_, stream_);
  Trainer trainer(config_, files_, adaptation_, mesh_, arena_, stream_, total_steps_);
  const bool resumes = start.reader.has_value();
  const bool is_counted = resumes && is_root() && options.resume == "auto";
  begin(std::move(start), options, trainer);
  if (is_counted) count_start(config_.checkpoint.dir, first_step_, 1);
  if (resumes) evaluate_start(trainer);
  const bool stops = (first_step_ < total_steps_ || owes_evaluation_) && is_asked_to_stop();
  // Not by the time limit, which a batch system may tell minutes before: the next start may do.
  const bool is_preempted = stops && job_.end_time && !job_.ends_within(/*seconds=*/600);
  if (is_counted && is_preempted) uncount_start();
  if (stops) {
    say(fmt::format("stopped on request before its first step, after step {} of {}", first_step_,
                    total_steps_));
    return ExitCode::kRequeue;
  }
  const ExitCode code = train_steps(trainer);
  if (code != ExitCode::kDone) return code;
  if (trainer.adalora() != nullptr) trainer.adalora()->allocator().check_agreement(stream_);
  activity.report("save", kFilePatience);
  RW_FAILPOINT("export.begin");
  Arena host;
  std::vector<NamedTensor> weights;
  if (adaptation_.trains_weights() && mesh_.data().rank() == 0) {
    weights = base_weights(trainer.model(), host, stream_);
  }
  if (is_root()) {
    const auto results = export_result(trainer, weights, *folder_);
    RW_FAILPOINT("export.written");
    reporter_->finish(seconds_before_ + seconds_since(begun_), results);
  }
  context_->world.barrier("end of training");
  return code;
}

void TrainingRun::begin(RunStart start, const TrainOptions& options, Trainer& trainer) {
  context_->world.activity().report("digest of model and data", kFilePatience);
  if (is_root()) description_ = describe_run();
  std::vector<LocalTensor> tensors = run_tensors(trainer);
  if (config_.guard.replica_hash_every > 0 && mesh_.world().size() > 1) {
    replicas_.emplace(tensors, adaptation_.projects(), mesh_, device_);
  }
  std::vector<CheckpointTensor> state = place_tensors(std::move(tensors), mesh_);
  if (start.reader) restore(*start.reader, state, trainer);
  if (start.reader && is_root()) {
    const Json before = start.reader->scalars().at("run");
    start.warnings.push_back(other_surroundings(before, description_));
  }
  if (is_root()) open_folder(start, options, trainer);
  std::erase(start.warnings, "");
  for (const std::string& warning : start.warnings) say("WARNING: " + warning);
  CheckpointOptions writer{.folder = config_.checkpoint.dir,
                           .job = job_.name,
                           .keep = static_cast<int>(config_.checkpoint.keep)};
  if (start.reader && start.in_place) writer.resumed_from = first_step_;
  if (lease_) writer.require_held = [this] { lease_->require_held(); };
  context_->world.barrier("run folder");
  checkpoints_.emplace(config_.checkpoint, std::move(writer), std::move(state), context_->world,
                       stream_, [this](std::string_view line) { say(line); });
  if (!start.reader) {
    owes_evaluation_ = data_.eval != nullptr;
    evaluate_start(trainer);
    return checkpoints_->prove(checkpoint_scalars(trainer));
  }
  const Json scalars = start.reader->scalars();
  if (reporter_) reporter_->restore(scalars.at("reporter"));
  say(fmt::format("goes on after step {} of {} from {}", first_step_, total_steps_,
                  start.reader->path()));
  start.reader.reset();  // it holds files open
  owes_evaluation_ = data_.eval && scalars.value("evaluation_owed", false);
  if (start.in_place) {
    checkpoints_->restore_best(scalars, first_step_);
  } else {
    checkpoints_->save(first_step_, std::nullopt, checkpoint_scalars(trainer), /*at_exit=*/true);
  }
  RW_FAILPOINT("resume.done");
}

void TrainingRun::restore(const CheckpointReader& reader,
                          const std::vector<CheckpointTensor>& state, Trainer& trainer) {
  const Json& scalars = reader.scalars();
  if (is_root()) require_same_run(scalars.value("run", Json()), description_);
  RW_FAILPOINT("resume.restore");
  reader.restore(state, stream_);
  first_step_ = reader.step();
  trainer.guard().restore(scalars.value("guard", Json()));
  continue_from(trainer, first_step_);
  loader_.seek(first_step_);
  tokens_so_far_ = scalars.at("tokens").get<int64_t>();
  seconds_before_ = scalars.at("seconds").get<double>();
}

void TrainingRun::open_folder(const RunStart& start, const TrainOptions& options,
                              const Trainer& trainer) {
  const std::string& folder = config_.checkpoint.dir;
  if (start.reader && start.in_place) {
    folder_.emplace(folder, first_step_);
    folder_->write_run_json(description_);
  } else {
    const bool untouched = options.resume != "none" && RunFolder::is_untouched(folder);
    folder_.emplace(folder, options.overwrite || untouched);
    RW_FAILPOINT("start.folder");
    folder_->write_run_json(description_);
    folder_->write_samples(render_samples(*data_.train, data_.tokenizer.get(), 3));
  }
  // mpirun gives every rank a terminal of its own, wherever its output ends.
  reporter_.emplace(*folder_, context_->out, total_steps_, data_.eval != nullptr,
                    /*live=*/context_->world.size() == 1);
  say(fmt::format("rankwise {} on {}, {}, {}: {} of {} elements trained", program_version(),
                  describe_mesh(), describe_device(device_), compute_name(),
                  trainer.trained_elements(), parameter_count(files_.config)));
  say("memory: " + memory_.summary());
  say("train data: " + describe(data_.train->report));
  if (data_.eval) say("eval data: " + describe(data_.eval->report));
}

std::vector<std::pair<std::string, std::string>> TrainingRun::export_result(
    Trainer& trainer, const std::vector<NamedTensor>& weights, const RunFolder& folder) {
  std::vector<std::pair<std::string, std::string>> results;
  const TokenizerFiles tokenizer_files =
      data_.tokenizer ? data_.tokenizer->files() : TokenizerFiles{};
  if (adaptation_.has_adapters()) {
    PeftConfig peft =
        adaptation_.peft_config(trainer.model().adapters(), files_.config, total_steps_);
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
  run["total_steps"] = total_steps_;
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
