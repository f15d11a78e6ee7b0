// SPDX-License-Identifier: Apache-2.0
// AdaLora: what AdaLoRA adds to an optimizer step: regulariser, importance, budget of ranks.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/orthogonality.h"
#include "optim/adamw_optimizer.h"
#include "optim/rank_allocator.h"

namespace rankwise {

// The trained factors of one adapted matrix B diag(e) A.
struct SingularTriplets {
  std::string name;  // of the module
  const Parameter* a = nullptr;
  const Parameter* e = nullptr;
  const Parameter* b = nullptr;
};

struct AdaLoraTraining {
  RankScheduleOptions schedule;
  // Of the regulariser, weight * mean over all A and B of ||A A^T - I||_F and ||B^T B - I||_F,
  // which is added once per optimizer step, however many micro-batches that has.
  double orth_weight = 0.5;
};

// The order of a step: gradients are reduced; add_regulariser; clipping; before_update; the
// optimizer's update, which measures the importance by the new parameters and the clipped
// gradients; after_update. All ranks compute the same.
class AdaLora {
 public:
  // The optimizer measures the importance of all factors (ImportanceOptions::wanted). ConfigError
  // for a schedule that does not fit total_steps. All references must outlive this object.
  AdaLora(const std::vector<SingularTriplets>& triplets, const AdaLoraTraining& training,
          int64_t total_steps, AdamWOptimizer& optimizer, const DeviceMesh& mesh, Arena& arena,
          Stream& stream);

  void add_regulariser(Stream& stream);
  // Where the host waits for the stream anyway: the regulariser just added, and the agreement of
  // the ranks about the last choice (RankAllocator::check_agreement).
  double regulariser(Stream& stream);
  // `step` counts from 0.
  void before_update(int64_t step) {
    optimizer_->measure_importance(allocator_.schedule().measures(step));
  }
  void after_update(int64_t step, Stream& stream) { allocator_.step(step, stream); }
  // For a step without an update: a choice that is owed is made with the next one, but in the last
  // step at once. Whether it was the last.
  bool after_skip(int64_t step, Stream& stream) {
    const bool last = allocator_.schedule().ends(step);
    if (last) allocator_.step(step, stream);
    return last;
  }

  // Of the last choice, the triplets of each module that stay.
  std::map<std::string, std::vector<bool>> kept(Stream& stream) const;

  RankAllocator& allocator() { return allocator_; }

 private:
  AdamWOptimizer* optimizer_;
  RankAllocator allocator_;
  std::vector<OrthogonalityTerm> terms_;
  double weight_;  // of one term
  Tensor sum_;     // (1) F64 of the terms
};

}  // namespace rankwise
