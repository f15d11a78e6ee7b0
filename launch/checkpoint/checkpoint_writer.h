// SPDX-License-Identifier: Apache-2.0
// CheckpointWriter: saves a run's state in the background and commits it with one rename.
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "launch/checkpoint/agreement.h"
#include "launch/checkpoint/rank_file.h"

namespace rankwise {

// What the hang watchdog names while a checkpoint is begun or committed.
inline constexpr const char* kCheckpointWork = "checkpoint";

struct CheckpointOptions {
  std::string folder;       // of the run; exists, on a file system that all ranks share
  std::string job = "0-0";  // "<job>-<restart>": tells the temporary folders of attempts apart
  int keep = 3;             // newest checkpoints, at least 1; the best one is kept besides
  // The step this run started from. Checkpoints beyond it, all if there is none, belong to a
  // continuation that was given up, or were faulty: they are removed after the next commit.
  std::optional<int64_t> resumed_from{};
  double deadline_seconds = 1800.0;  // a write that takes longer has failed
  // Throws when another job may write the folder now. Asked on rank 0 before a checkpoint gets its
  // name, and before pointers and old checkpoints are touched: the job may have been suspended.
  std::function<void()> require_held = [] {};
};

struct CommitReport {
  int64_t step = 0;
  std::string path;
  int64_t bytes = 0;                    // of all ranks' files
  double blocked_seconds = 0.0;         // of training, longest of the ranks
  double durable_seconds = 0.0;         // from begin() until the rename was synced
  std::vector<std::string> warnings{};  // pointers or old checkpoints that could not be handled
};

// All members but the destructor and in_flight() are called by all ranks at the same steps; an
// error is the same on all of them and leaves earlier checkpoints as they were. Protocol: every
// rank writes, syncs and digests a file of its own in step-N.tmp-<job>; all vote; rank 0 writes the
// manifest, syncs and renames. Communication happens on the calling thread only.
class CheckpointWriter {
 public:
  // Rank 0 removes what killed runs left in the folder.
  CheckpointWriter(CheckpointOptions options, Communicator& world);
  // Waits for this rank's write. A checkpoint that was not committed by then never will be.
  ~CheckpointWriter() = default;
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Copies the state after the work given to the stream so far; when it returns, the state may
  // change. Not while one is in flight. DiskError when the folder cannot be made, or has less room
  // than 1.1 times the need; nothing was written or copied then.
  void begin(const CheckpointState& state, Stream& stream);
  bool in_flight() const { return in_flight_; }
  // Commits if all ranks have written their files; with `wait` only after that. Nothing when they
  // have not. DiskError naming rank, path and reason when one failed; kDiverged naming rank and
  // tensor when values of the state are not finite.
  std::optional<CommitReport> try_commit(bool wait);

 private:
  using Clock = std::chrono::steady_clock;

  bool is_root() const { return world_->rank() == 0; }
  // On the background thread: body of the vote. Of the members that change it uses the snapshot,
  // which is not taken again before this is done.
  Json write(const std::string& folder) const;
  // 1: written (or failed), 0: still writing, -1: beyond the deadline. With `wait` never 0.
  int progress(bool wait) const;
  // On rank 0.
  void commit(const std::vector<Json>& votes);
  std::vector<std::string> tidy_up(bool wait);  // for the removal
  void remove_temporary() const;

  CheckpointOptions options_;
  Communicator* world_;
  std::set<int64_t> given_up_;  // on rank 0, until the first commit
  std::string startup_warning_;

  CheckpointSnapshot snapshot_;
  bool in_flight_ = false;
  int64_t step_ = 0;
  bool best_ = false;
  Json scalars_;
  std::string temporary_;
  Clock::time_point started_;
  double blocked_seconds_ = 0.0;
  int64_t total_bytes_ = 0;
  std::future<std::string> removal_;  // of superseded checkpoints
  std::future<Vote> writing_;         // last: its thread uses the snapshot
};

}  // namespace rankwise
