// SPDX-License-Identifier: Apache-2.0
// Trainer: model, gradients and optimizer of one rank, and the training step over them.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launch/adaptation.h"
#include "launch/config/train_config.h"
#include "launch/model_files.h"
#include "launch/step_flops.h"
#include "launch/step_graphs.h"
#include "launch/step_guard.h"
#include "optim/adalora.h"
#include "optim/clip_gradients.h"
#include "optim/schedule.h"
#include "optim/subspace_refresh.h"
#include "parallel/device_mesh.h"
#include "parallel/gradient_reducer.h"

namespace rankwise {

// What one optimizer step did on this rank. Loss, accuracy and norm are global, equal on all ranks.
struct StepMeasurement {
  double loss = 0.0;  // mean over the trained tokens of the global batch
  double token_accuracy = 0.0;
  double gradient_norm = 0.0;  // before clipping
  double learning_rate = 0.0;
  std::optional<double> orthogonality_loss;  // of AdaLoRA; not part of `loss`
  int64_t tokens = 0;            // processed by this rank, its tensor ranks the same ones
  double flops = 0.0;            // required of this rank (StepFlops)
  double compute_seconds = 0.0;  // forward, backward, optimizer
  double reduce_seconds = 0.0;   // waiting for other ranks' gradients
  // Computing bases of GaLore, waiting for those of other ranks; unset in a step without.
  std::optional<double> refresh_seconds;
  std::vector<std::string> without_basis;  // weights whose gradient gave none: the old one is kept
  std::string finding;                     // of the guard, if any
  bool skipped = false;                    // the update was left out
};

class Trainer {
 public:
  // Everything the run needs is allocated here or in the first step. All references must outlive
  // the trainer. In measuring mode (arena and stream) a step allocates as a real one does and
  // computes nothing.
  Trainer(const TrainConfig& config, const ModelFiles& files, const Adaptation& adaptation,
          const DeviceMesh& mesh, Arena& arena, Stream& stream, int64_t total_steps);

  // One optimizer step over this rank's micro-batches; `step` counts from 0. What the guard finds
  // all ranks find, before any weight or state is changed: then the update is left out, or an Error
  // with kDiverged says which ranks' loss and gradients were not finite.
  StepMeasurement train_step(int64_t step, std::span<const MicroBatch> batches);

  CausalLm& model() { return model_; }
  Optimizer& optimizer() { return *optimizer_; }
  StepGuard& guard() { return guard_; }
  const StepGuard& guard() const { return guard_; }
  // Null without AdaLoRA.
  AdaLora* adalora() { return adalora_.get(); }
  // Of the last step: bytes that this rank sent (Communicator::wire_bytes).
  int64_t wire_bytes() const { return wire_bytes_; }
  // Elements that are trained, all ranks' parts together.
  int64_t trained_elements() const;

 private:
  std::unique_ptr<Optimizer> make_optimizer(const OptimSection& section,
                                            const Adaptation& adaptation);
  std::unique_ptr<Optimizer> make_projected_optimizer(const Adaptation& adaptation,
                                                      const OptimizerFactory& inner);
  void start_adalora(const AdaLoraSection& section, int64_t total_steps);
  // Gradients of the step's batch, those of `round` refreshed; false when the guard refuses them.
  bool backward_pass(int64_t step, std::span<const MicroBatch> batches,
                     const SubspaceRefresh::Round& round, StepMeasurement& result);
  void micro_batches(int64_t step, std::span<const MicroBatch> batches, bool reduces);
  void forward_backward(const MicroBatch& batch, uint64_t step);
  bool update(int64_t step, std::span<const MicroBatch> batches, StepMeasurement& result);
  // Whether gradients of this norm may be used. `compares_norm` as StepGuard says.
  bool may_update(int64_t step, std::span<const MicroBatch> batches, double norm,
                  bool compares_norm, StepMeasurement& result);
  // Ranks whose own micro-batches, computed once more, give what is not finite, and what.
  std::string find_source(int64_t step, std::span<const MicroBatch> batches);
  double norm_of(const std::vector<Tensor>& gradients);  // that this rank holds

  Arena* arena_;
  Stream* stream_;
  const DeviceMesh* mesh_;
  CausalLm model_;
  std::vector<ParameterGroup> groups_;
  std::unique_ptr<SubspaceRefresh> refresh_;  // null without GaLore
  std::unique_ptr<Optimizer> optimizer_;
  GradientReducer reducer_;
  std::unique_ptr<AdaLora> adalora_;
  Schedule schedule_;
  StepGuard guard_;
  StepFlops flops_;
  double max_grad_norm_;
  StepGraphs graphs_;
  bool replays_;      // small micro-batches are replayed: their work does not depend on the step
  Tensor sums_;       // (3) F64: loss, targets, hits
  Tensor norm_sums_;  // (2) F64, of clip_gradients
  int64_t wire_bytes_ = 0;
  int patience_ = kFirstPatience;  // of the watchdog: nobody knows how long the first step takes
};

}  // namespace rankwise
