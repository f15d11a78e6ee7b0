// SPDX-License-Identifier: Apache-2.0
// PeerMonitor: ends the whole job when one of its ranks dies or hangs, naming rank and operation.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/line_socket.h"
#include "parallel/peer_verdict.h"

namespace rankwise {

// One thread per rank and TCP connections between rank 0 and the others: nothing here depends on
// MPI, NCCL or a GPU, which may be what hangs. Twice a second each rank tells rank 0, and rank 0
// all others, what its Activity says. Rank 0 judges all, the others judge rank 0 (peer_verdict.h).
// One rank of the job reports, so that the cause is one line; then all end.
//
// Trust: connections count only with the job's random token, which travels over MPI.
class PeerMonitor {
 public:
  // Ends this process, and the job when there is a message: that is the line to print. An empty
  // message means that another rank prints. Called on the monitor's thread.
  using End = std::function<void(const Verdict&)>;
  static constexpr double kDefaultDeadline = 300.0;
  // A rank without connections judges itself alone, with so many times the deadline: it cannot know
  // what it waits for.
  static constexpr int kLonelyPatience = 10;

  // Called by all ranks of `world`, which must outlive the monitor.
  PeerMonitor(Communicator& world, const std::string& host, End end);
  // Says goodbye: from here on this rank is not missed.
  ~PeerMonitor();
  PeerMonitor(const PeerMonitor&) = delete;
  PeerMonitor& operator=(const PeerMonitor&) = delete;

  // Why the ranks are not connected; empty when they are.
  const std::string& problem() const { return problem_; }
  // Seconds that one operation may take, times its patience; 0: any time.
  void set_deadline(double seconds) { deadline_ = seconds; }
  // For a rank that wants to report an error of its own and end the job with `code`. Returns when
  // nobody else does so; otherwise the process is ended meanwhile.
  void claim_report(ExitCode code);

 private:
  using Clock = std::chrono::steady_clock;
  enum class Channel { kForming, kWhole, kBroken };
  struct Peer {
    PeerView view;
    LineSocket socket;
    double told_seconds = 0.0;  // of the operation, when heard
    double heard = 0.0;         // on the awake clock
  };

  std::string listen();                           // what the others need to connect
  std::string connect(const std::string& where);  // empty, or what went wrong
  void run(const std::stop_token& stop);
  void wait_for_traffic();
  void advance_clock();
  void admit_peers();
  void read_from(Peer& peer);
  void obey(Peer& peer, const std::string& line);
  void beat();
  void pass_on_claim();
  void let_report(int rank, ExitCode code);
  void answer_claim(bool may_report);
  void end_soon(ExitCode code);
  void judge();
  std::optional<Verdict> find_verdict();
  void send_to_all(const std::string& line, int except = -1);
  void wake() const;
  bool is_whole() const { return channel_ == Channel::kWhole; }

  Activity* activity_;
  int rank_;
  int size_;
  std::string host_;
  End end_;
  std::string token_;
  std::string problem_;
  Descriptor wakes_;
  std::optional<LineListener> listener_;
  std::vector<LineSocket> strangers_;  // connected, not yet introduced
  std::vector<Peer> peers_;            // of rank 0: ranks 1, 2, ...; of the others: rank 0

  // Of the monitor's thread. The awake clock stands still while this process is stopped, so that a
  // job that was suspended and goes on is not taken for one that hangs.
  double awake_ = 0.0;
  Clock::time_point last_;
  double next_beat_ = 0.0;
  PeerView own_;
  double own_since_ = 0.0;
  std::optional<double> speaks_at_;  // of a survivor of rank 0: the lowest goes first
  std::optional<Verdict> ending_;    // somebody reports: nothing is judged any more
  double ends_at_ = 0.0;

  std::atomic<double> deadline_ = kDefaultDeadline;
  std::atomic<Channel> channel_ = Channel::kForming;
  std::atomic<int> claim_ = -1;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<bool> may_report_;  // rank 0's answer to the claim, guarded by mutex_
  std::jthread thread_;             // last: it stops before what it uses goes
};

}  // namespace rankwise
