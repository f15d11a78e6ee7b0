// SPDX-License-Identifier: Apache-2.0
// SavedRun: what a run had trained when one of its checkpoints was made.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "launch/adaptation.h"
#include "launch/checkpoint/checkpoint_reader.h"
#include "launch/model_files.h"
#include "parallel/communicator.h"

namespace rankwise {

struct SavedAdapters {
  PeftConfig config;
  std::vector<std::unique_ptr<Adapter>> owned;
  std::vector<std::pair<std::string, Adapter*>> by_module;
};

// On the CPU of one process, whatever the run trained on. What is loaded is what the run would
// export after the step of the checkpoint.
class SavedRun {
 public:
  // Verifies the checkpoint and reads config.json of the base, which must lie where the run had it,
  // as must an adapter that the run began with. FormatError; ConfigError.
  explicit SavedRun(const std::string& checkpoint);
  SavedRun(const SavedRun&) = delete;
  SavedRun& operator=(const SavedRun&) = delete;

  bool has_adapters() const { return adaptation_.has_adapters(); }
  bool trains_weights() const { return adaptation_.trains_weights(); }
  const std::string& base() const { return config_.model.path; }
  const ModelConfig& model() const { return model_; }

  // The base's weights are not needed. Tensors are in `arena`.
  SavedAdapters load_adapters(Arena& arena, Stream& stream) const;
  // All weights, F32, those that were not trained from the base. FormatError when the base is not
  // the one that the run had.
  std::vector<NamedTensor> load_weights(Arena& arena, Stream& stream) const;

 private:
  // F32, from F32 or BF16.
  void read(const std::string& name, const Tensor& out, Stream& stream) const;

  std::unique_ptr<Communicator> alone_ = make_single_communicator();
  CheckpointReader reader_;
  TrainConfig config_;
  ModelConfig model_;
  Adaptation adaptation_;
};

}  // namespace rankwise
