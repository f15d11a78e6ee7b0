// SPDX-License-Identifier: Apache-2.0
// How the ranks get connected to rank 0.
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <random>
#include <sstream>

#include "parallel/peer_monitor.h"

namespace rankwise {
namespace {

constexpr int kConnectMs = 1000;
constexpr int kAnswerMs = 5000;

std::string random_token() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", device(), device(), device(), device());
}

}  // namespace

PeerMonitor::PeerMonitor(Communicator& world, const std::string& host, End end)
    : activity_(&world.activity()),
      rank_(world.rank()),
      size_(world.size()),
      host_(host),
      end_(std::move(end)),
      wakes_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      last_(Clock::now()) {
  own_.rank = rank_;
  own_.host = host;
  const std::vector<std::string> places =
      world.gather_text(fmt::format("{} {}", host, getpid()), "hosts of the ranks");
  peers_.resize(rank_ == 0 ? static_cast<size_t>(size_ - 1) : 1);
  for (size_t i = 0; i < peers_.size(); ++i) {
    PeerView& view = peers_[i].view;
    view.rank = rank_ == 0 ? static_cast<int>(i) + 1 : 0;
    std::istringstream(places[static_cast<size_t>(view.rank)]) >> view.host >> view.process;
    view.status.work = view.status.operation = "start";
  }
  std::string problem;
  std::string where;
  if (rank_ == 0) {
    try {
      where = listen();
    } catch (const CommunicationError& error) {
      problem = error.what();
    }
  }
  where = world.broadcast_text(where, 0, "address of the peer monitor");
  if (rank_ == 0) {
    thread_ =
        std::jthread([this](const std::stop_token& stop) { run(stop); });  // answers the others
  } else if (!where.empty()) {
    problem = connect(where);
  }
  for (const std::string& of_rank : world.gather_text(problem, "peer monitor connected")) {
    if (problem_.empty()) problem_ = of_rank;
  }
  channel_ = problem_.empty() ? Channel::kWhole : Channel::kBroken;
  if (rank_ != 0) thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

std::string PeerMonitor::listen() {
  listener_.emplace();
  token_ = random_token();
  std::string where = fmt::format("{} {} {}", token_, host_, listener_->port());
  for (const std::string& address : local_addresses()) where += " " + address;
  return where;
}

std::string PeerMonitor::connect(const std::string& where) {
  std::istringstream words(where);
  std::string host;
  int port = 0;
  words >> token_ >> host >> port;
  std::string tried;
  for (std::string address; words >> address; tried += " " + address) {
    // On another host these lead to a stranger.
    if (is_loopback(address) && host != host_) continue;
    LineSocket socket = LineSocket::connect(address, port, kConnectMs);
    if (!socket.is_open()) continue;
    socket.send(fmt::format("hello {} {}", token_, rank_));
    pollfd answer = {socket.descriptor(), POLLIN, 0};
    if (poll(&answer, 1, kAnswerMs) != 1) continue;
    const std::vector<std::string> lines = socket.receive();
    if (lines.empty() || lines[0] != "welcome") continue;
    peers_[0].socket = std::move(socket);
    for (size_t i = 1; i < lines.size(); ++i) obey(peers_[0], lines[i]);
    return "";
  }
  return fmt::format("rank {} on {} cannot reach rank 0 on {}, port {}, at any of its addresses:{}",
                     rank_, host_, host, port, tried);
}

void PeerMonitor::admit_peers() {
  if (!listener_) return;
  for (LineSocket socket = listener_->accept(); socket.is_open(); socket = listener_->accept()) {
    strangers_.push_back(std::move(socket));
  }
  for (LineSocket& stranger : strangers_) {
    for (const std::string& line : stranger.receive()) {
      std::istringstream words(line);
      std::string hello, token;
      int rank = 0;
      words >> hello >> token >> rank;
      if (hello != "hello" || token != token_ || rank < 1 || rank >= size_) break;
      Peer& peer = peers_[static_cast<size_t>(rank - 1)];
      stranger.send("welcome");
      peer.heard = awake_;
      peer.view.link = PeerView::Link::kOpen;  // it may have given up a slower connection before
      peer.socket = std::move(stranger);
      break;
    }
  }
  std::erase_if(strangers_, [](const LineSocket& stranger) { return !stranger.is_open(); });
  // From the second gathering in the constructor on, who is not here does not come.
  if (channel_ == Channel::kForming) return;
  listener_.reset();
  strangers_.clear();
}

}  // namespace rankwise
