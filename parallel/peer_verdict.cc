// SPDX-License-Identifier: Apache-2.0
#include "parallel/peer_verdict.h"

#include <algorithm>
#include <set>
#include <vector>

namespace rankwise {
namespace {

using Link = PeerView::Link;

constexpr double kMissedPeriods = 1.5;

bool is_stale(const PeerView& view, const HangLimits& limits) {
  if (view.status.in_collective) return view.seconds > limits.deadline;
  const double of_slowest = std::min(HangLimits::kSlowestFactor * limits.slowest,
                                     HangLimits::kMostDeadlines * limits.deadline);
  return view.seconds > std::max(view.status.patience * limits.deadline, of_slowest);
}

std::string name(const PeerView& view) {
  return fmt::format("rank {} on {}", view.rank, view.host);
}

std::string doing(const PeerView& view) {
  const Activity::Status& status = view.status;
  const bool between = !status.in_collective && status.operation != status.work;
  return status.doing() + (between ? fmt::format(" after '{}'", status.operation) : "");
}

Verdict hang(const std::string& message) { return {ExitCode::kHang, message}; }

std::string hosts_of(std::span<const PeerView> ranks) {
  std::set<std::string> hosts;
  for (const PeerView& view : ranks) hosts.insert(view.host);
  return fmt::format("{}", fmt::join(hosts, ", "));
}

// `late` keeps `waiting` waiting.
Verdict late_rank(const PeerView& late, const PeerView& waiting) {
  const std::string during =
      late.status.in_collective
          ? fmt::format("did not join {}: it has been waiting in {}", doing(waiting), doing(late))
          : fmt::format("has been in {}", doing(late));
  return hang(fmt::format("{} {} for {:.0f} s; {} waits in {}", name(late), during, late.seconds,
                          name(waiting), doing(waiting)));
}

}  // namespace

std::optional<Verdict> find_lost(std::span<const PeerView> ranks) {
  for (const PeerView& view : ranks) {
    if (view.link != Link::kLost) continue;
    return Verdict{ExitCode::kCommunication, fmt::format("{} ended during {} (process {})",
                                                         name(view), doing(view), view.process)};
  }
  return std::nullopt;
}

std::optional<Verdict> find_silent(std::span<const PeerView> ranks, const HangLimits& limits) {
  if (limits.deadline <= 0.0) return std::nullopt;
  const double suspicious = std::max(3 * limits.period, limits.deadline / 3);
  const auto longest = std::ranges::max_element(ranks, {}, [](const auto& view) {
    return view.link == Link::kOpen ? view.silent_seconds : -1;
  });
  if (longest == ranks.end() || longest->link != Link::kOpen) return std::nullopt;
  const bool others_wait = std::ranges::all_of(ranks, [&](const PeerView& view) {
    return view.link == Link::kLeft || view.silent_seconds > suspicious || is_stale(view, limits);
  });
  if (longest->silent_seconds <= (others_wait ? suspicious : limits.deadline)) return std::nullopt;
  return hang(
      fmt::format("{} has been silent for {:.0f} s, last in {} (stopped, or its host is lost)",
                  name(*longest), longest->silent_seconds, doing(*longest)));
}

std::optional<Verdict> find_stuck(std::span<const PeerView> ranks, const HangLimits& limits) {
  std::vector<PeerView> at_work;
  for (const PeerView& view : ranks) {
    if (view.link == Link::kOpen) at_work.push_back(view);
  }
  // Who has missed a sign of life may be stopped: that is found out first (find_silent).
  const auto heard = [&](const PeerView& view) {
    return view.silent_seconds <= kMissedPeriods * limits.period;
  };
  const auto stale = [&](const PeerView& view) { return is_stale(view, limits) && heard(view); };
  if (limits.deadline <= 0.0 || at_work.empty() || !std::ranges::all_of(at_work, stale)) {
    return std::nullopt;
  }
  // First who is not waiting, then who has come least far.
  const auto [late, waiting] = std::ranges::minmax_element(at_work, {}, [](const PeerView& view) {
    return std::pair(view.status.in_collective, view.status.collectives);
  });
  if (late->status.in_collective != waiting->status.in_collective ||
      late->status.collectives != waiting->status.collectives) {
    return late_rank(*late, *waiting);
  }
  return hang(fmt::format("{} rank(s) on {}: no progress in {} for {:.0f} s, first of them rank {}",
                          at_work.size(), hosts_of(at_work), doing(*late), late->seconds,
                          late->rank));
}

}  // namespace rankwise
