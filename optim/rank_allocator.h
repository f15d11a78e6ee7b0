// SPDX-License-Identifier: Apache-2.0
// RankAllocator: the budget of AdaLoRA's adapters; rank 0 decides which triplets stay.
#pragma once

#include <string>
#include <vector>

#include "kernels/rank_selection.h"
#include "optim/rank_schedule.h"
#include "parallel/device_mesh.h"
#include "runtime/arena.h"
#include "runtime/named_tensor.h"

namespace rankwise {

// One adapted matrix B diag(e) A, whole and equal on all ranks.
struct RankedMatrix {
  std::string name;
  Tensor e;  // (r) or (r, 1) F32: the singular values, of which dropped ones become 0
  TripletImportance importance;
};

// Triplets are ordered as the matrices are, and within each by their index; of equal scores the
// first are kept, so that a budget is met exactly. A matrix may lose all of its triplets. Until the
// last choice dropped triplets are trained further and may come back.
class RankAllocator {
 public:
  // Memory comes from "optimizer". mesh must outlive the allocator.
  RankAllocator(std::vector<RankedMatrix> matrices, const RankSchedule& schedule,
                const DeviceMesh& mesh, Arena& arena, Stream& stream);

  // To be called by all ranks after the optimizer's update of each step, from 0 on, and after the
  // last step also when it had none. Where the schedule says so, of this step or of those left out
  // before it, rank 0 chooses by its scores, all ranks take over its choice, and hashes of scores
  // and choice are exchanged, to be compared later. Does not wait for the stream, except for a
  // comparison that is still to be done.
  void step(int64_t step, Stream& stream);
  // Compares the hashes of the last choice, if that was not done; waits for the stream, so it
  // belongs where the host waits anyway, and before state is saved. CommunicationError on every
  // rank, naming those that differ from rank 0.
  void check_agreement(Stream& stream);

  // Of the last step: triplets that may be kept, and those that are not zero.
  int64_t budget() const;
  int64_t active() const;
  // Of the last choice: 1 for kept triplets of a matrix, (r) U8, and their number in each matrix,
  // for which it waits for the stream.
  Tensor kept_of(size_t matrix) const;
  std::vector<int64_t> ranks(Stream& stream) const;

  const std::vector<RankedMatrix>& matrices() const { return matrices_; }
  const RankSchedule& schedule() const { return schedule_; }

  // What a checkpoint needs beside the importance, which belongs to the optimizer.
  int64_t steps_taken() const { return steps_; }
  void set_steps_taken(int64_t steps) {
    steps_ = steps;
    masked_ = steps > 0 && schedule_.masks(steps - 1);
  }
  std::vector<NamedTensor> state() const { return {{"rank_allocator.kept", kept_}}; }

 private:
  void decide(Stream& stream);

  std::vector<RankedMatrix> matrices_;
  std::vector<TripletImportance> importance_;  // of the matrices, as the kernels take them
  std::vector<Tensor> singular_values_;
  std::vector<int64_t> first_;  // triplet of each matrix
  RankSchedule schedule_;
  const DeviceMesh* mesh_;
  Tensor scores_;           // (n) F32
  Tensor kept_;             // (n) U8
  Tensor hashes_;           // (2) I64 of scores and choice
  Tensor all_hashes_;       // (ranks, 2)
  int64_t steps_ = 0;       // the last given to step(), from 1
  bool masked_ = false;     // dropped triplets are zero since then
  bool unchecked_ = false;  // a choice whose hashes were not compared
};

}  // namespace rankwise
