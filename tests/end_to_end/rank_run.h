// SPDX-License-Identifier: Apache-2.0
// RankRun: the Trainer of one rank over the rows of a run, stepped by hand.
#pragma once

#include <vector>

#include "launch/trainer.h"
#include "launch/training_data.h"

namespace rankwise::testing {

class RankRun {
 public:
  RankRun(const TrainConfig& config, Communicator& world, Device device = {})
      : config_(config),
        mesh_(world, static_cast<int>(config.parallel.tensor), device),
        files_(open_base(config_)),
        adaptation_(config_, files_.config),
        data_(load_training_data(config_, files_, DataParts::kTrainAndEval)),
        loader_(make_loader(config_, data_.train, mesh_)),
        arena_(device),
        stream_(device),
        total_steps_(rankwise::total_steps(config_, loader_)),
        trainer_(config_, files_, adaptation_, mesh_, arena_, stream_, total_steps_) {}

  // Leaves its gradients, divided by the count of tokens, in parameters().
  StepMeasurement step() { return trainer_.train_step(steps_++, loader_.next_step()); }
  std::vector<double> losses(int steps) {
    std::vector<double> losses;
    for (int i = 0; i < steps; ++i) losses.push_back(step().loss);
    return losses;
  }

  int64_t total_steps() const { return total_steps_; }
  std::vector<Parameter*> parameters() { return trainer_.model().trained_parameters(); }
  // Of a GaLore run.
  ProjectedOptimizer& projected() { return static_cast<ProjectedOptimizer&>(trainer_.optimizer()); }
  Trainer& trainer() { return trainer_; }
  const DeviceMesh& mesh() const { return mesh_; }
  Stream& stream() { return stream_; }

 private:
  TrainConfig config_;
  DeviceMesh mesh_;
  ModelFiles files_;
  Adaptation adaptation_;
  TrainingData data_;
  DataLoader loader_;
  Arena arena_;
  Stream stream_;
  int64_t total_steps_;
  Trainer trainer_;
  int64_t steps_ = 0;
};

}  // namespace rankwise::testing
