// SPDX-License-Identifier: Apache-2.0
// ReplicaCheck: whether all ranks hold the same bits of what each of them keeps for itself.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launch/checkpoint/checkpoint_state.h"
#include "parallel/device_mesh.h"
#include "runtime/arena.h"

namespace rankwise {

// Whole tensors are compared over all ranks, parts of split ones over the ranks of the data axis.
// So are all with `over_data_only`: bases of GaLore agree between tensor ranks up to rounding only.
class ReplicaCheck {
 public:
  // Called by all ranks with the same names in the same order. Views of `tensors` and mesh must
  // outlive it.
  ReplicaCheck(const std::vector<LocalTensor>& tensors, bool over_data_only, const DeviceMesh& mesh,
               Device device);

  // Called by all ranks; waits for the stream. CommunicationError on all of them, naming the first
  // tensor that differs, and the ranks.
  void check(int64_t step, Stream& stream);

 private:
  std::vector<std::string> names_;
  std::vector<Tensor> values_;
  std::vector<bool> is_split_;
  const DeviceMesh* mesh_;
  Arena arena_;
  Tensor hashes_;  // (tensors) I64
};

// "rank 3 holds other bits than the other 3 of 'a.exp_avg' (the first of 2 tensors)", or "ranks 0,
// 1 hold different bits of ..." where no majority is right. `hashes` (ranks, tensors).
std::optional<std::string> find_difference(std::span<const int64_t> hashes,
                                           std::span<const std::string> names,
                                           const std::vector<bool>& is_split, int tensor_ranks);

}  // namespace rankwise
