// SPDX-License-Identifier: Apache-2.0
// The stories260k model and its golden training data under a Trainer that is stepped by hand.
#pragma once

#include <string>
#include <vector>

#include "launch/trainer.h"
#include "launch/training_data.h"
#include "tests/end_to_end/golden_run.h"

namespace rankwise::testing {

// The golden run's files: batches of 8 rows, fp32, clipped to norm 1.
class StoriesFiles {
 public:
  // `rules` are those of adapt, without the brackets.
  TrainConfig config(const std::string& rules, std::vector<std::string> overrides = {}) const {
    overrides.insert(overrides.begin(), fmt::format("adapt=[{}]", rules));
    return load_train_config(path_, overrides);
  }

 private:
  ScratchFolder folder_;
  std::string path_ = golden_run(folder_);
};

class StoriesTraining {
 public:
  StoriesTraining(const TrainConfig& config, Communicator& world)
      : config_(config),
        mesh_(world, static_cast<int>(config.parallel.tensor)),
        files_(open_base(config_)),
        adaptation_(config_, files_.config),
        data_(load_training_data(config_, files_, DataParts::kTrainAndEval)),
        loader_(make_loader(config_, data_.train, mesh_)),
        trainer_(config_, files_, adaptation_, mesh_, arena_, stream_,
                 total_steps(config_, loader_)) {}

  // Leaves its gradients, divided by the count of tokens, in parameters().
  StepMeasurement step() { return trainer_.train_step(steps_++, loader_.next_step()); }
  std::vector<double> losses(int steps) {
    std::vector<double> losses;
    for (int i = 0; i < steps; ++i) losses.push_back(step().loss);
    return losses;
  }

  std::vector<Parameter*> parameters() { return trainer_.model().trained_parameters(); }
  // Of a GaLore run.
  ProjectedOptimizer& projected() { return static_cast<ProjectedOptimizer&>(trainer_.optimizer()); }
  Trainer& trainer() { return trainer_; }
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
  Trainer trainer_;
  int64_t steps_ = 0;
};

}  // namespace rankwise::testing
