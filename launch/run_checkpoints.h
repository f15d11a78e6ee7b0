// SPDX-License-Identifier: Apache-2.0
// RunCheckpoints: when a run is saved, what becomes of a save that fails, and where it starts.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/checkpoint/checkpoint_reader.h"
#include "launch/checkpoint/checkpoint_writer.h"
#include "launch/config/train_config.h"

namespace rankwise {

// Called by all ranks at the same steps.
class RunCheckpoints {
 public:
  using Say = std::function<void(std::string_view line)>;

  // `tensors`: the state, which is read in every save. `say`: on rank 0, for the log.
  RunCheckpoints(const CheckpointSection& section, CheckpointOptions options,
                 std::vector<CheckpointTensor> tensors, Communicator& world, Stream& stream,
                 Say say);

  // Of a new run: saves step 0 and reads it back, so that what cannot be saved is known before any
  // work is done.
  void prove(Json scalars);
  // Of a run that goes on in its folder after `step`: what BEST is, from the scalars of that
  // checkpoint. DiskError, FormatError: of the pointer.
  void restore_best(const Json& scalars, int64_t step);

  // `loss`: of an evaluation, made only now, in the step of a durable checkpoint of this folder.
  // DiskError: of the pointer BEST.
  void add_eval_loss(int64_t step, double loss);

  // By checkpoint.every.
  bool is_due(int64_t step) const { return section_.every > 0 && step % section_.every == 0; }
  // By checkpoint.every_minutes, on this rank's clock.
  bool is_time() const;
  // On this rank's clock; infinite before the first commit of this start.
  double seconds_since_commit() const;

  // `loss`: of an evaluation in this step. In the background, and a DiskError is only logged,
  // while a state that is not finite ends the run (kDiverged) in this or a later call; with
  // `at_exit` it returns when the checkpoint is durable, or throws.
  void save(int64_t step, std::optional<double> loss, Json scalars, bool at_exit);
  // Commits what was written meanwhile; does not wait.
  void poll() { finish(/*wait=*/false, /*at_exit=*/false); }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }
  void finish(bool wait, bool at_exit);
  bool is_best(std::optional<double> loss) const {
    return section_.best && loss && (!best_loss_ || *loss < *best_loss_);
  }
  void warn(const std::string& text) const;

  CheckpointSection section_;
  Communicator* world_;
  Stream* stream_;
  Say say_;
  CheckpointState state_;
  CheckpointWriter writer_;
  std::optional<double> best_loss_;  // of BEST: of a checkpoint that is durable
  std::optional<int64_t> best_step_;
  std::optional<double> saved_loss_;  // of state_
  Clock::time_point saved_ = Clock::now();
  std::optional<Clock::time_point> committed_;
};

// Where a run starts.
struct RunStart {
  bool is_finished = false;                // nothing is left to do
  std::optional<CheckpointReader> reader;  // absent: anew
  bool in_place = false;                   // the checkpoint lies in the run's own folder
  std::vector<std::string> warnings;
};
// Called by all ranks; changes nothing. `resume`: none, auto, or the path of a checkpoint, which is
// refused when it lies in the folder of a finished run. FormatError and ConfigError; kDoNotRequeue
// after three counted starts in a row.
RunStart find_start(const std::string& folder, const std::string& resume, Communicator& world);
// On rank 0, when a start with `auto` has restored `step`: `change` more in a row, until another
// step is committed. DiskError.
void count_start(const std::string& folder, int64_t step, int change);

}  // namespace rankwise
