// SPDX-License-Identifier: Apache-2.0
// TrainingRun: one `train` job from configuration to exported result.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/adaptation.h"
#include "launch/config/train_config.h"
#include "launch/device_choice.h"
#include "launch/memory_plan.h"
#include "launch/model_files.h"
#include "launch/preemption.h"
#include "launch/replica_check.h"
#include "launch/run_checkpoints.h"
#include "launch/run_lease.h"
#include "launch/run_reporter.h"
#include "launch/trainer.h"
#include "launch/training_data.h"
#include "launch/verbs/verb.h"

namespace rankwise {

struct TrainOptions {
  bool overwrite = false;       // the run that stands in checkpoint.dir may be replaced
  std::string resume = "none";  // none | auto | path of a checkpoint
};

class TrainingRun {
 public:
  // Chooses the device, reads and checks model header and data, and plans the memory; no weight is
  // touched yet. The context must outlive the run.
  TrainingRun(const TrainConfig& config, VerbContext& context);

  // Data counts, steps and the memory table.
  std::string describe_plan() const;
  // ConfigError when checkpoint.dir cannot become the folder of this run. `overwrite`: the run that
  // stands there may be replaced, unless this one reads its model or adapter.
  void require_free_folder(bool overwrite) const;
  // Trains, evaluates, writes the run folder and exports the result into it. kDone, or kRequeue
  // when it stopped after a checkpoint because it was asked to (preemption.h).
  ExitCode run(const TrainOptions& options);

 private:
  // What all ranks know after a step.
  struct Agreement {
    RunRequest request = RunRequest::kNone;
    bool is_time = false;          // for a checkpoint
    bool commit_is_young = false;  // so that a request to terminate needs none
  };

  // Takes the start's state over, then opens the folder: a start that is refused leaves it as it
  // was. Only rank 0 has a folder and a reporter.
  void begin(RunStart start, const TrainOptions& options, Trainer& trainer);
  void restore(const CheckpointReader& reader, const std::vector<CheckpointTensor>& state,
               Trainer& trainer);
  void open_folder(const RunStart& start, const TrainOptions& options, const Trainer& trainer);
  ExitCode train_and_export(RunStart start, const TrainOptions& options);
  // Whether a signal asked this start to stop before its first step: its state is saved already.
  bool is_asked_to_stop() const;
  ExitCode train_steps(Trainer& trainer);
  // Saves when it is time; whether the run stops here.
  bool end_step(int64_t done, std::optional<double> eval_loss, const Agreement& agreed,
                const Trainer& trainer);
  void warn(int64_t step, const StepMeasurement& measurement, const StepGuard& guard);
  MetricsRecord compare_ranks(int64_t step, const StepMeasurement& measurement, double data_seconds,
                              double step_seconds, Agreement& agreed);
  // After `step` steps. Nothing when a request to stop, which `agreed` takes over as any other,
  // came before the end. kDiverged when it is not finite.
  std::optional<double> evaluate(Trainer& trainer, int64_t step, Agreement& agreed);
  // The evaluation that the state of the first step is owed, if any.
  void evaluate_start(Trainer& trainer);
  // On rank 0.
  void uncount_start();
  // Of this rank. The time limit asks only a start that has made a step.
  RunRequest request_after(int64_t step) const {
    return step > first_step_ && job_.is_ending() ? RunRequest::kStop : pending_request();
  }
  Json checkpoint_scalars(const Trainer& trainer) const;
  void say(std::string_view line) {
    if (reporter_) reporter_->say(line);
  }
  // `weights`: all of the base, if it was trained. Where the results went, for the summary.
  std::vector<std::pair<std::string, std::string>> export_result(
      Trainer& trainer, const std::vector<NamedTensor>& weights, const RunFolder& folder);
  Json describe_run() const;
  std::string describe_mesh() const;  // "4 rank(s) (data 2 x tensor 2)"
  bool is_root() const { return context_->world.rank() == 0; }
  std::string_view compute_name() const { return compute_ == DType::kBF16 ? "bf16" : "fp32"; }

  MemoryPlan make_memory_plan() const;

  TrainConfig config_;  // resolved: of device, model.compute and train.recompute none is auto
  VerbContext* context_;
  Device device_;
  DType compute_;
  DeviceMesh mesh_;
  ModelFiles files_;
  Adaptation adaptation_;
  TrainingData data_;
  DataLoader loader_;
  int64_t total_steps_;
  MemoryPlan memory_;
  Arena arena_;
  Stream stream_;
  BatchJob job_;
  std::optional<RunLease> lease_;  // on rank 0
  std::optional<RunFolder> folder_;
  std::optional<RunReporter> reporter_;
  std::optional<RunCheckpoints> checkpoints_;
  std::optional<ReplicaCheck> replicas_;  // with guard.replica_hash_every
  Json description_;                      // run.json, on rank 0
  int64_t first_step_ = 0;
  bool owes_evaluation_ = false;  // of the present state: a request to stop came before its end
  int64_t tokens_so_far_ = 0;
  double seconds_before_ = 0.0;  // of the starts that this one continues
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  double peak_flops_per_s_ = 0.0;  // matmul ceiling of this rank, in the compute type
};

}  // namespace rankwise
