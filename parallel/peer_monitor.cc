// SPDX-License-Identifier: Apache-2.0
#include "parallel/peer_monitor.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <sstream>

namespace rankwise {
namespace {

constexpr double kPeriod = 0.5;
constexpr int kPollMs = 250;
constexpr int kBusyPollMs = 50;
constexpr double kTurn = 1.5;  // for one rank to speak and for the launcher to end the others
constexpr double kLastTurn = 9.0;
constexpr double kGrace = 2.0;         // for the reporting rank to print and to end the job
constexpr double kClaimSeconds = 2.0;  // for rank 0 to answer
constexpr size_t kLongestOperation = 200;

double seconds_between(std::chrono::steady_clock::time_point a,
                       std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

// Tensor and file names come from users; an operation is part of one line all the same.
std::string printable(std::string text) {
  text.resize(std::min(text.size(), kLongestOperation));
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
}

}  // namespace

PeerMonitor::~PeerMonitor() {
  thread_.request_stop();
  wake();
}

void PeerMonitor::wake() const { eventfd_write(wakes_.get(), 1); }

void PeerMonitor::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    wait_for_traffic();
    advance_clock();
    admit_peers();
    for (Peer& peer : peers_) read_from(peer);
    if (awake_ >= next_beat_) beat();
    pass_on_claim();
    judge();
  }
  send_to_all("goodbye");
}

void PeerMonitor::wait_for_traffic() {
  std::vector<pollfd> sources;
  const auto listen_to = [&](int descriptor) {
    if (descriptor >= 0) sources.push_back({descriptor, POLLIN, 0});
  };
  listen_to(wakes_.get());
  if (listener_) listen_to(listener_->descriptor());
  for (const LineSocket& stranger : strangers_) listen_to(stranger.descriptor());
  for (const Peer& peer : peers_) listen_to(peer.socket.descriptor());
  poll(sources.data(), sources.size(), speaks_at_ || ending_ ? kBusyPollMs : kPollMs);
  eventfd_t count = 0;
  eventfd_read(wakes_.get(), &count);
}

void PeerMonitor::advance_clock() {
  const Clock::time_point now = Clock::now();
  awake_ += std::min(seconds_between(last_, now), 2 * kPeriod);
  last_ = now;
  const Activity::Status status = activity_->status();
  if (status.since != own_.status.since) {
    if (own_.status.repeats && !own_.status.in_collective) {
      own_.slowest_seconds = std::max(own_.slowest_seconds, own_.seconds);
    }
    own_since_ = awake_;
  }
  own_.status = status;
  own_.status.work = printable(status.work);
  own_.status.operation = printable(status.operation);
  own_.seconds = awake_ - own_since_;
  for (Peer& peer : peers_) {
    peer.view.silent_seconds = awake_ - peer.heard;
    peer.view.seconds = peer.told_seconds + peer.view.silent_seconds;
  }
}

void PeerMonitor::read_from(Peer& peer) {
  if (!peer.socket.is_open()) return;
  peer.socket.flush();
  for (const std::string& line : peer.socket.receive()) obey(peer, line);
  if (!peer.socket.is_open() && peer.view.link == PeerView::Link::kOpen) {
    peer.view.link = PeerView::Link::kLost;
  }
}

void PeerMonitor::obey(Peer& peer, const std::string& line) {
  peer.heard = awake_;
  peer.view.silent_seconds = 0.0;
  std::istringstream words(line);
  std::string word;
  int code = static_cast<int>(ExitCode::kCommunication);
  words >> word;
  if (word == "status") {
    Activity::Status& status = peer.view.status;
    words >> status.collectives >> status.in_collective >> status.patience;
    words >> peer.view.slowest_seconds >> peer.told_seconds;
    std::getline(words >> std::ws, status.work, '\t');
    std::getline(words, status.operation);
    peer.view.seconds = peer.told_seconds;
  } else if (word == "goodbye") {
    peer.view.link = PeerView::Link::kLeft;
  } else if (word == "claim" && words >> code) {
    let_report(peer.view.rank, ExitCode(code));
  } else if (word == "end" && words >> code) {
    end_soon(ExitCode(code));
    answer_claim(false);
  } else if (word == "report" && words >> code) {
    end_soon(ExitCode(code));
    answer_claim(true);
  }
}

void PeerMonitor::beat() {
  next_beat_ = awake_ + kPeriod;
  const Activity::Status& status = own_.status;
  send_to_all(fmt::format("status {} {:d} {} {:.3f} {:.3f} {}\t{}", status.collectives,
                          status.in_collective, status.patience, own_.slowest_seconds, own_.seconds,
                          status.work, status.operation));
}

void PeerMonitor::pass_on_claim() {
  const int code = claim_.exchange(-1);
  if (code < 0) return;
  if (rank_ == 0) {
    let_report(0, ExitCode(code));
  } else {
    send_to_all(fmt::format("claim {}", code));
    end_soon(ExitCode(code));
    ends_at_ += kClaimSeconds;
  }
}

// On rank 0: the first who asks reports.
void PeerMonitor::let_report(int rank, ExitCode code) {
  if (!ending_) {
    send_to_all(fmt::format("end {}", static_cast<int>(code)), rank);
    end_soon(code);
    if (rank == 0) return answer_claim(true);
    const std::string answer = fmt::format("report {}", static_cast<int>(code));
    peers_[static_cast<size_t>(rank - 1)].socket.send(answer);
  } else if (rank == 0) {
    answer_claim(false);
  }
}

void PeerMonitor::answer_claim(bool may_report) {
  const std::lock_guard lock(mutex_);
  may_report_ = may_report;
  changed_.notify_all();
}

void PeerMonitor::end_soon(ExitCode code) {
  ending_ = Verdict{code, ""};
  ends_at_ = awake_ + kGrace;
}

void PeerMonitor::claim_report(ExitCode code) {
  if (!is_whole()) return;
  claim_ = static_cast<int>(code);
  wake();
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::duration<double>(kClaimSeconds),
                    [&] { return may_report_.has_value(); });
  // Refused: another rank reports, and the monitor's thread ends this one.
  if (may_report_ == false) changed_.wait_for(lock, std::chrono::seconds(10), [] { return false; });
}

void PeerMonitor::judge() {
  if (ending_) {
    if (awake_ >= ends_at_) end_(*ending_);
    return;
  }
  const std::optional<Verdict> verdict = find_verdict();
  if (!verdict) {
    speaks_at_.reset();
    return;
  }
  // Survivors of rank 0 do not hear of each other: when the lowest has spoken, it ends the others.
  if (!speaks_at_) speaks_at_ = awake_ + std::clamp(kTurn * (rank_ - 1), 0.0, kLastTurn);
  if (awake_ < *speaks_at_) return;
  send_to_all(fmt::format("end {}", static_cast<int>(verdict->code)));
  end_soon(verdict->code);
  answer_claim(false);
  end_(*verdict);
}

std::optional<Verdict> PeerMonitor::find_verdict() {
  HangLimits limits = {.deadline = deadline_, .period = kPeriod};
  std::vector<PeerView> ranks = {own_};
  for (const Peer& peer : peers_) ranks.push_back(peer.view);
  for (const PeerView& view : ranks)
    limits.slowest = std::max(limits.slowest, view.slowest_seconds);
  if (!is_whole()) {
    limits.deadline *= kLonelyPatience;
    return find_stuck({&own_, 1}, limits);
  }
  std::optional<Verdict> verdict = find_lost(ranks);
  if (!verdict) verdict = find_silent(ranks, limits);
  if (!verdict && rank_ == 0) verdict = find_stuck(ranks, limits);
  return verdict;
}

void PeerMonitor::send_to_all(const std::string& line, int except) {
  for (Peer& peer : peers_) {
    if (peer.view.rank != except) peer.socket.send(line);
  }
}

}  // namespace rankwise
