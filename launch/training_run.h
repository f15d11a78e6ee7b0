// SPDX-License-Identifier: Apache-2.0
// TrainingRun: one `train` job from configuration to exported result.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/adaptation.h"
#include "launch/config/train_config.h"
#include "launch/device_choice.h"
#include "launch/evaluation.h"
#include "launch/memory_plan.h"
#include "launch/model_files.h"
#include "launch/run_reporter.h"
#include "launch/trainer.h"
#include "launch/training_data.h"
#include "launch/verbs/verb.h"

namespace rankwise {

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
  // Trains, evaluates, writes the run folder and exports the result into it;
  // require_free_folder comes first.
  void run(bool overwrite);

 private:
  void train_and_export(bool overwrite);
  // Only rank 0 has a reporter.
  void train_steps(Trainer& trainer, RunReporter* reporter);
  MetricsRecord compare_ranks(int64_t step, const StepMeasurement& measurement, double data_seconds,
                              double step_seconds);
  EvaluationResult evaluate(Trainer& trainer, int64_t max_batches);
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
  int64_t tokens_so_far_ = 0;
  double peak_flops_per_s_ = 0.0;  // matmul ceiling of this rank, in the compute type
};

}  // namespace rankwise
