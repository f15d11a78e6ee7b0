// SPDX-License-Identifier: Apache-2.0
// Monitors of ranks that are threads; what a rank says on the wire is also played by hand.
#include "parallel/peer_monitor.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <sstream>

#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using std::chrono::seconds;

// The verdicts that a monitor reached, instead of an end of the process.
class Verdicts {
 public:
  PeerMonitor::End recorder() {
    return [this](const Verdict& verdict) {
      const std::lock_guard lock(mutex_);
      verdicts_.push_back(verdict);
      changed_.notify_all();
    };
  }
  Verdict first() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, seconds(20), [&] { return !verdicts_.empty(); });
    return verdicts_.empty() ? Verdict{ExitCode::kDone, "none"} : verdicts_.front();
  }
  bool empty() {
    const std::lock_guard lock(mutex_);
    return verdicts_.empty();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Verdict> verdicts_;
};

TEST(PeerMonitor, RanksThatEndInOrderDisturbNobody) {
  run_ranks_as_threads(3, [](Communicator& world) {
    Verdicts verdicts;
    {
      PeerMonitor monitor(world, "here", verdicts.recorder());
      EXPECT_EQ(monitor.problem(), "");
      monitor.set_deadline(0.05);
      std::this_thread::sleep_for(std::chrono::milliseconds(10 * world.rank()));
    }
    EXPECT_TRUE(verdicts.empty());
  });
}

TEST(PeerMonitor, HangIsReportedByRankZeroAndEndsAll) {
  run_ranks_as_threads(3, [](Communicator& world) {
    Verdicts verdicts;
    PeerMonitor monitor(world, "here", verdicts.recorder());
    monitor.set_deadline(world.rank() == 0 ? 1.0 : 0.0);
    if (world.rank() == 2) {
      world.activity().report("step 5");
    } else {
      world.activity().begin_collective("bucket 1");
    }
    const Verdict verdict = verdicts.first();
    EXPECT_EQ(verdict.code, ExitCode::kHang);
    if (world.rank() == 0) {
      EXPECT_TRUE(verdict.message.starts_with("rank 2 on here has been in 'step 5' for "))
          << verdict.message;
    } else {
      EXPECT_EQ(verdict.message, "");
    }
    world.barrier("all have ended");
  });
}

TEST(PeerMonitor, WorkThatRepeatsMayTakeAMultipleOfItsSlowest) {
  run_ranks_as_threads(1, [](Communicator& world) {
    Verdicts verdicts;
    PeerMonitor monitor(world, "here", verdicts.recorder());
    world.activity().report("step 1", 10, /*repeats=*/true);
    monitor.set_deadline(0.8);
    std::this_thread::sleep_for(seconds(2));
    world.activity().report("step 2", 1, /*repeats=*/true);
    std::this_thread::sleep_for(seconds(3));
    EXPECT_TRUE(verdicts.empty());
    const Verdict verdict = verdicts.first();
    EXPECT_EQ(verdict.code, ExitCode::kHang);
    EXPECT_TRUE(verdict.message.starts_with("1 rank(s) on here: no progress in 'step 2' for "))
        << verdict.message;
  });
}

TEST(PeerMonitor, RankThatReportsItsOwnErrorIsTheOnlyOne) {
  run_ranks_as_threads(3, [](Communicator& world) {
    Verdicts verdicts;
    PeerMonitor monitor(world, "here", verdicts.recorder());
    if (world.rank() == 2) monitor.claim_report(ExitCode::kDisk);
    const Verdict verdict = verdicts.first();
    EXPECT_EQ(verdict.code, ExitCode::kDisk);
    EXPECT_EQ(verdict.message, "");
    world.barrier("all have ended");
  });
}

// Rank 1 of two, played by hand: what PeerMonitor's constructor exchanges.
class PlayedPeer {
 public:
  explicit PlayedPeer(Communicator& world) : world_(world) {
    world_.gather_text("there 4711", "hosts of the ranks");
    std::istringstream words(world_.broadcast_text("", 0, "address of the peer monitor"));
    words >> token_ >> host_ >> port_;
  }
  // Whether rank 0 welcomes this greeting.
  bool greet(const std::string& greeting) {
    socket_ = LineSocket::connect("127.0.0.1", port_, 1000);
    socket_.send(greeting);
    pollfd answer = {socket_.descriptor(), POLLIN, 0};
    if (poll(&answer, 1, 700) != 1) return false;
    const std::vector<std::string> lines = socket_.receive();
    return !lines.empty() && lines[0] == "welcome";
  }
  void connected(const std::string& problem) {
    world_.gather_text(problem, "peer monitor connected");
  }
  void say(const std::string& line) { socket_.send(line); }
  void hang_up() { socket_ = LineSocket(); }
  const std::string& token() const { return token_; }

 private:
  Communicator& world_;
  std::string token_;
  std::string host_;
  int port_ = 0;
  LineSocket socket_;
};

void play(const std::function<void(PlayedPeer&)>& peer,
          const std::function<void(PeerMonitor&, Verdicts&)>& expect) {
  run_ranks_as_threads(2, [&](Communicator& world) {
    if (world.rank() == 1) {
      PlayedPeer played(world);
      peer(played);
      world.barrier("judged");
    } else {
      Verdicts verdicts;
      PeerMonitor monitor(world, "here", verdicts.recorder());
      expect(monitor, verdicts);
      world.barrier("judged");
    }
  });
}

TEST(PeerMonitor, OnlyTheTokenOpensTheDoor) {
  play(
      [](PlayedPeer& peer) {
        EXPECT_FALSE(peer.greet("hello 0123456789abcdef 1"));
        EXPECT_FALSE(peer.greet("hello " + peer.token() + " 2"));
        EXPECT_FALSE(peer.greet("hello " + peer.token() + " 0"));
        EXPECT_FALSE(peer.greet("status 1 0 1 0 0.5 x\tx"));
        EXPECT_TRUE(peer.greet("hello " + peer.token() + " 1"));
        peer.connected("");
        peer.say("goodbye");
      },
      [](PeerMonitor& monitor, Verdicts&) { EXPECT_EQ(monitor.problem(), ""); });
}

TEST(PeerMonitor, RankThatDiesIsNamedWithWhatItDidLast) {
  play(
      [](PlayedPeer& peer) {
        EXPECT_TRUE(peer.greet("hello " + peer.token() + " 1"));
        peer.connected("");
        peer.say("status 3 0 1 0 0.5 load a tensor\tload a tensor");
        peer.hang_up();
      },
      [](PeerMonitor&, Verdicts& verdicts) {
        const Verdict verdict = verdicts.first();
        EXPECT_EQ(verdict.code, ExitCode::kCommunication);
        EXPECT_EQ(verdict.message, "rank 1 on there ended during 'load a tensor' (process 4711)");
      });
}

TEST(PeerMonitor, RankThatFallsSilentIsNamed) {
  play(
      [](PlayedPeer& peer) {
        EXPECT_TRUE(peer.greet("hello " + peer.token() + " 1"));
        peer.connected("");
        peer.say("status 3 0 10 0 0.5 read data\tread data");
      },
      [](PeerMonitor& monitor, Verdicts& verdicts) {
        monitor.set_deadline(2.0);
        const Verdict verdict = verdicts.first();
        EXPECT_EQ(verdict.code, ExitCode::kHang);
        EXPECT_NE(
            verdict.message.find("rank 1 on there has been silent for 2 s, last in 'read data'"),
            std::string::npos)
            << verdict.message;
      });
}

TEST(PeerMonitor, WorkMayTakeAMultipleOfTheSlowestOfAnotherRank) {
  play(
      [](PlayedPeer& peer) {
        EXPECT_TRUE(peer.greet("hello " + peer.token() + " 1"));
        peer.connected("");
        for (int i = 0; i < 35; ++i) {
          peer.say("status 3 1 1 100 50 step 2\tbucket 1");
          std::this_thread::sleep_for(std::chrono::milliseconds(100));
        }
        peer.say("goodbye");
      },
      [](PeerMonitor& monitor, Verdicts& verdicts) {
        monitor.set_deadline(1.5);
        std::this_thread::sleep_for(seconds(3));
        EXPECT_TRUE(verdicts.empty()) << verdicts.first().message;
      });
}

TEST(PeerMonitor, WithoutConnectionsARankEndsItselfInTheEnd) {
  play([](PlayedPeer& peer) { peer.connected("no way to rank 0"); },
       [](PeerMonitor& monitor, Verdicts& verdicts) {
         EXPECT_EQ(monitor.problem(), "no way to rank 0");
         monitor.claim_report(ExitCode::kDisk);  // waits for nobody
         monitor.set_deadline(0.05);
         EXPECT_EQ(verdicts.first().code, ExitCode::kHang);
       });
}

}  // namespace
}  // namespace rankwise
