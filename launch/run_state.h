// SPDX-License-Identifier: Apache-2.0
// The state of a run as a checkpoint keeps it, and which settings may differ when it goes on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/checkpoint/checkpoint_state.h"
#include "launch/trainer.h"

namespace rankwise {

// Trained parameters, state of the optimizer and AdaLoRA's choice: views into the trainer. The
// frozen base is not among them: its digest stands for it.
std::vector<LocalTensor> run_tensors(Trainer& trainer);
// To be called when the values of run_tensors() and the state of the guard were replaced by those
// after `step` steps.
void continue_from(Trainer& trainer, int64_t step);

// `saved` and `present`: run.json of both, with "total_steps". ConfigError naming key and both
// values of a setting without which the run would be another one. Layout, micro-batch,
// recomputation, device, evaluation and reporting may change, and files may have moved.
void require_same_run(const Json& saved, const Json& present);

// Of the same two: what of GPU model and libraries is another one and may give other bits, in one
// line, or "".
std::string other_surroundings(const Json& saved, const Json& present);

}  // namespace rankwise
