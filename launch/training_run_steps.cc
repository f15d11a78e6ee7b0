// SPDX-License-Identifier: Apache-2.0
// The steps of a TrainingRun: what ranks measure, report, save and agree about after each.
#include <algorithm>
#include <array>
#include <cmath>

#include "launch/evaluation.h"
#include "launch/training_run.h"
#include "runtime/failpoint.h"

namespace rankwise {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kYoungSeconds = 60.0;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

std::optional<double> TrainingRun::evaluate(Trainer& trainer, int64_t step, Agreement& agreed) {
  context_->world.activity().report("evaluate", kFilePatience);
  const std::vector<MicroBatch> batches =
      make_eval_batches(config_, *data_.eval, mesh_, config_.eval.batches);
  // Once in a global batch: where rows differ in length, ranks that ask wait for each other.
  const int64_t between =
      config_.train.global_batch / (config_.train.micro_batch * mesh_.data().size());
  const auto gives_up = [&, asked = int64_t{0}]() mutable {
    if (asked++ % between != 0) return false;
    const std::vector<double> all = all_reduce_numbers(
        context_->world,
        {static_cast<double>(request_after(step)), checkpoints_->seconds_since_commit()},
        ReduceOp::kMax, "requests");
    agreed.request = std::max(agreed.request, static_cast<RunRequest>(all[0]));
    agreed.commit_is_young = all[1] < kYoungSeconds;
    return agreed.request >= RunRequest::kTerminate;
  };
  const auto result = evaluate_loss(trainer.model(), batches, mesh_, arena_, stream_, gives_up);
  if (!result) return std::nullopt;
  if (std::isfinite(result->loss)) return result->loss;
  const bool is_saved = step == first_step_ && step > 0;
  throw Error(
      ExitCode::kDiverged,
      fmt::format("step {}: evaluation loss {}; {}", step, result->loss,
                  is_saved ? "go on from an earlier checkpoint, with --resume and its folder"
                           : "nothing is saved after it"));
}

void TrainingRun::evaluate_start(Trainer& trainer) {
  if (!owes_evaluation_) return;
  Agreement agreed;  // a request to stop stays pending
  const std::optional<double> loss = evaluate(trainer, first_step_, agreed);
  if (agreed.request == RunRequest::kSave) raise_request(RunRequest::kSave);
  owes_evaluation_ = !loss;
  if (loss && reporter_) reporter_->evaluation(first_step_, *loss);
  // Step 0 is not the best.
  if (loss && first_step_ > 0) checkpoints_->add_eval_loss(first_step_, *loss);
}

void TrainingRun::uncount_start() {
  try {
    count_start(config_.checkpoint.dir, first_step_, -1);
  } catch (const DiskError& error) {
    say(fmt::format("WARNING: rank 0: {}", error.what()));
  }
}

bool TrainingRun::is_asked_to_stop() const {
  const auto own = static_cast<double>(pending_request());
  const double all = all_reduce_numbers(context_->world, {own}, ReduceOp::kMax, "requests")[0];
  const bool stops = static_cast<RunRequest>(all) >= RunRequest::kTerminate;
  if (stops) forget_requests();
  // Told once, but meant for the first step.
  if (!stops && all == static_cast<double>(RunRequest::kSave)) raise_request(RunRequest::kSave);
  return stops;
}

void TrainingRun::warn(int64_t step, const StepMeasurement& measurement, const StepGuard& guard) {
  if (!reporter_) return;
  if (!measurement.finding.empty()) {
    const std::string skipped =
        measurement.skipped ? fmt::format("; no update ({} skipped so far)", guard.skipped()) : "";
    reporter_->say(fmt::format("WARNING: step {}: {}{}", step, measurement.finding, skipped));
  }
  for (const std::string& weight : measurement.without_basis) {
    reporter_->say(fmt::format(
        "WARNING: step {}: {} keeps its old basis; the gradient is of too low a rank, or too large",
        step, weight));
  }
}

ExitCode TrainingRun::train_steps(Trainer& trainer) {
  for (int64_t step = first_step_; step < total_steps_; ++step) {
    RW_FAILPOINT("step.begin");
    const auto step_begin = Clock::now();
    const std::vector<MicroBatch> batches = loader_.next_step();
    const double data_seconds = seconds_since(step_begin);
    const StepMeasurement measurement = trainer.train_step(step, batches);
    const double step_seconds = seconds_since(step_begin);
    RW_FAILPOINT("step.updated");

    const int64_t done = step + 1;
    const bool last = done == total_steps_;
    Agreement agreed;
    MetricsRecord record = compare_ranks(done, measurement, data_seconds, step_seconds, agreed);
    record.wire_bytes = trainer.wire_bytes();
    record.skipped_steps = trainer.guard().skipped();
    record.orth_loss = measurement.orthogonality_loss;
    if (trainer.adalora() != nullptr) {
      record.adalora_budget = trainer.adalora()->allocator().budget();
      record.adalora_active = trainer.adalora()->allocator().active();
    }
    const bool evaluates =
        data_.eval && (last || (config_.eval.every > 0 && done % config_.eval.every == 0));
    if (evaluates && agreed.request < RunRequest::kTerminate) {
      record.eval_loss = evaluate(trainer, done, agreed);
    }
    owes_evaluation_ = evaluates && !record.eval_loss;
    RW_FAILPOINT("step.report");
    warn(done, measurement, trainer.guard());
    if (reporter_) reporter_->step(record, evaluates || last || done % config_.log.every == 0);
    // Hashes are compared before state is saved.
    if (trainer.adalora() != nullptr) trainer.adalora()->allocator().check_agreement(stream_);
    if (end_step(done, record.eval_loss, agreed, trainer)) return ExitCode::kRequeue;
  }
  return ExitCode::kDone;
}

bool TrainingRun::end_step(int64_t done, std::optional<double> eval_loss, const Agreement& agreed,
                           const Trainer& trainer) {
  const bool last = done == total_steps_;
  const bool stops = (!last || owes_evaluation_) && agreed.request >= RunRequest::kTerminate;
  if (stops) forget_requests();
  if (stops && agreed.request == RunRequest::kTerminate && agreed.commit_is_young) {
    say(fmt::format("asked to terminate after step {}: the last checkpoint is younger than {} s",
                    done, kYoungSeconds));
    return true;
  }
  const bool saves = last || stops || agreed.request == RunRequest::kSave || agreed.is_time ||
                     checkpoints_->is_due(done);
  if (replicas_ && (saves || done % config_.guard.replica_hash_every == 0)) {
    replicas_->check(done, stream_);
  }
  if (saves) {
    if (lease_) lease_->require_held();
    checkpoints_->save(done, eval_loss, checkpoint_scalars(trainer), /*at_exit=*/last || stops);
  } else {
    checkpoints_->poll();
  }
  if (stops) {
    say(fmt::format("stopped after step {} of {} on request{}", done, total_steps_,
                    owes_evaluation_ ? "; its evaluation is left to the next start" : ""));
  }
  return stops;
}

Json TrainingRun::checkpoint_scalars(const Trainer& trainer) const {
  if (!is_root()) return Json::object();
  return {{"tokens", tokens_so_far_},
          {"epoch", loader_.epochs_at(loader_.position())},
          {"seconds", seconds_before_ + seconds_since(begun_)},
          {"data_parallel", mesh_.data().size()},
          {"tensor_parallel", mesh_.tensor().size()},
          {"evaluation_owed", owes_evaluation_},
          {"reporter", reporter_->state()},
          {"guard", trainer.guard().state()},
          {"run", description_}};
}

MetricsRecord TrainingRun::compare_ranks(int64_t step, const StepMeasurement& measurement,
                                         double data_seconds, double step_seconds,
                                         Agreement& agreed) {
  constexpr int64_t kFields = 9;
  const int64_t ranks = context_->world.size();
  const size_t peak_bytes = static_cast<size_t>(arena_.peak_bytes()) + stream_.scratch_peak_bytes();
  std::array<double, kFields> own = {measurement.compute_seconds,
                                     measurement.reduce_seconds,
                                     data_seconds,
                                     static_cast<double>(measurement.tokens),
                                     static_cast<double>(peak_bytes),
                                     measurement.refresh_seconds.value_or(0.0),
                                     static_cast<double>(request_after(step)),
                                     checkpoints_->is_time() ? 1.0 : 0.0,
                                     checkpoints_->seconds_since_commit()};
  std::vector<double> all(static_cast<size_t>(ranks * kFields));
  Stream host;
  context_->world.all_gather(Tensor(all.data(), DType::kF64, {ranks, kFields}),
                             Tensor(own.data(), DType::kF64, {kFields}), "step metrics", host);

  agreed.is_time = all[7] > 0.0;  // by the clock of rank 0
  agreed.commit_is_young = all[8] < kYoungSeconds;
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
    agreed.request = std::max(agreed.request, static_cast<RunRequest>(of_rank[6]));
    record.peak_bytes = std::max(record.peak_bytes, static_cast<int64_t>(of_rank[4]));
  }
  tokens_so_far_ += static_cast<int64_t>(tokens);
  record.tokens = tokens_so_far_;
  record.tokens_per_s = tokens / step_seconds;
  record.tokens_per_s_per_rank = record.tokens_per_s / static_cast<double>(ranks);
  record.mfu = measurement.flops / (step_seconds * peak_flops_per_s_);
  return record;
}

}  // namespace rankwise
