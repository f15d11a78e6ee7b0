// SPDX-License-Identifier: Apache-2.0
// Which rank ended or hangs, judged by what the ranks last said of themselves.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "parallel/activity.h"
#include "runtime/errors.h"

namespace rankwise {

// What is known of one rank. Times in seconds, without those in which the observer was stopped
// itself.
struct PeerView {
  enum class Link {
    kOpen,
    kLeft,  // said goodbye: its work is done
    kLost,  // the connection ended without
  };

  int rank = 0;
  std::string host;
  int64_t process = 0;
  Link link = Link::kOpen;
  Activity::Status status;
  double seconds = 0.0;          // that the operation has taken so far
  double slowest_seconds = 0.0;  // that work which repeats took between two collectives so far
  double silent_seconds = 0.0;   // since it was last heard of
};

struct HangLimits {
  static constexpr double kSlowestFactor = 5.0, kMostDeadlines = 10.0;
  double deadline = 0.0;  // for one operation, times its patience; 0: none
  double period = 0.0;    // between two signs of life
  // Largest slowest_seconds of all ranks: work may take kSlowestFactor times as long, if that is
  // more than its patience allows, and kMostDeadlines at most. A job whose steps are longer than
  // the deadline is healthy; one stall is not to hide a hang for days.
  double slowest = 0.0;
};

// Why the job has to end: one line that names rank, host and operation.
struct Verdict {
  ExitCode code = ExitCode::kCommunication;
  std::string message;
};

// A rank whose connection ended.
std::optional<Verdict> find_lost(std::span<const PeerView> ranks);

// A rank that gives no sign of life for the deadline; for a part of it when all others have passed
// theirs.
std::optional<Verdict> find_silent(std::span<const PeerView> ranks, const HangLimits& limits);

// All ranks have passed the deadline. As long as one of them gets on with its work, or takes no
// longer than its patience allows, the others may be waiting for it: that is no hang. Named is who
// keeps the others waiting, as far as it can be told.
std::optional<Verdict> find_stuck(std::span<const PeerView> ranks, const HangLimits& limits);

}  // namespace rankwise
