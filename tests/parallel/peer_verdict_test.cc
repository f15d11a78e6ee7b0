// SPDX-License-Identifier: Apache-2.0
#include "parallel/peer_verdict.h"

#include <gtest/gtest.h>

#include <vector>

namespace rankwise {
namespace {

constexpr HangLimits kLimits = {.deadline = 60.0, .period = 0.5};

PeerView working(int rank, const std::string& operation, double seconds, int patience = 1) {
  PeerView view;
  view.rank = rank;
  view.host = fmt::format("h{}", rank);
  view.status = {.work = operation, .operation = operation, .collectives = 7, .patience = patience};
  view.seconds = seconds;
  return view;
}

PeerView waiting(int rank, const std::string& operation, double seconds, uint64_t collectives = 8) {
  PeerView view = working(rank, operation, seconds);
  view.status.work = "step 3";
  view.status.in_collective = true;
  view.status.collectives = collectives;
  return view;
}

std::string text(const std::optional<Verdict>& verdict, ExitCode code = ExitCode::kHang) {
  if (!verdict) return "";
  EXPECT_EQ(verdict->code, code);
  return verdict->message;
}

TEST(PeerVerdict, LostRankIsNamedAndALeavingOneIsNot) {
  std::vector<PeerView> ranks = {working(0, "step 3", 1), working(1, "step 3", 1)};
  EXPECT_FALSE(find_lost(ranks));
  ranks[1].link = PeerView::Link::kLeft;
  EXPECT_FALSE(find_lost(ranks));
  ranks[1].link = PeerView::Link::kLost;
  ranks[1].process = 4711;
  EXPECT_EQ(text(find_lost(ranks), ExitCode::kCommunication),
            "rank 1 on h1 ended during 'step 3' (process 4711)");
  ranks[1].status = waiting(1, "bucket 4", 1).status;
  EXPECT_EQ(text(find_lost(ranks), ExitCode::kCommunication),
            "rank 1 on h1 ended during 'bucket 4' of 'step 3' (process 4711)");
}

TEST(PeerVerdict, SilenceCountsAfterTheDeadlineOrWhenAllOthersWaitInVain) {
  std::vector<PeerView> ranks = {waiting(0, "gradients", 10), working(1, "step 3", 40)};
  ranks[1].silent_seconds = 40;
  EXPECT_FALSE(find_silent(ranks, kLimits)) << "rank 0 does not wait long yet";
  ranks[0].seconds = 61;
  EXPECT_EQ(
      text(find_silent(ranks, kLimits)),
      "rank 1 on h1 has been silent for 40 s, last in 'step 3' (stopped, or its host is lost)");
  ranks[1].silent_seconds = 19;
  EXPECT_FALSE(find_silent(ranks, kLimits)) << "a short pause is no silence";
  ranks[0].seconds = 1;
  ranks[1].silent_seconds = 61;
  EXPECT_TRUE(find_silent(ranks, kLimits));
  ranks[1].link = PeerView::Link::kLeft;
  EXPECT_FALSE(find_silent(ranks, kLimits));
}

TEST(PeerVerdict, WaitingForARankWithPatienceIsNoHang) {
  std::vector<PeerView> ranks = {waiting(0, "begin", 500), working(1, "load a", 500, 10)};
  EXPECT_FALSE(find_stuck(ranks, kLimits));
  ranks[1].seconds = 601;
  EXPECT_EQ(
      text(find_stuck(ranks, kLimits)),
      "rank 1 on h1 has been in 'load a' for 601 s; rank 0 on h0 waits in 'begin' of 'step 3'");
}

TEST(PeerVerdict, WorkMayTakeAMultipleOfTheSlowestOfAnyRank) {
  HangLimits limits = kLimits;
  limits.slowest = 100;
  std::vector<PeerView> ranks = {waiting(0, "bucket 4", 490), working(1, "step 3", 499)};
  EXPECT_TRUE(find_stuck(ranks, kLimits));
  EXPECT_FALSE(find_stuck(ranks, limits));
  ranks[1].seconds = 501;
  EXPECT_TRUE(find_stuck(ranks, limits));
  ranks[1].status.patience = 10;
  EXPECT_FALSE(find_stuck(ranks, limits)) << "patience allows more";
  limits.slowest = 1e6;
  ranks[1] = working(1, "step 3", 599);
  EXPECT_FALSE(find_stuck(ranks, limits));
  ranks[1].seconds = 601;
  EXPECT_TRUE(find_stuck(ranks, limits)) << "one stall hides no later hang";
  EXPECT_TRUE(find_stuck(std::vector{waiting(0, "a", 61), waiting(1, "a", 61)}, limits))
      << "nobody works";
  limits.slowest = 1;
  EXPECT_FALSE(find_stuck(std::vector{working(1, "step 3", 59)}, limits)) << "never less";
}

TEST(PeerVerdict, WaitingWhileOneRankMakesProgressIsNoHang) {
  const std::vector<PeerView> ranks = {waiting(0, "end", 500), working(1, "save b", 2),
                                       waiting(2, "end", 400)};
  EXPECT_FALSE(find_stuck(ranks, kLimits));
}

TEST(PeerVerdict, RankThatHasComeLeastFarIsNamed) {
  const std::vector<PeerView> ranks = {waiting(0, "bucket 4", 61, 12),
                                       waiting(1, "bucket 3", 62, 11),
                                       waiting(2, "bucket 4", 61, 12)};
  EXPECT_EQ(
      text(find_stuck(ranks, kLimits)),
      "rank 1 on h1 did not join 'bucket 4' of 'step 3': it has been waiting in 'bucket 3' of "
      "'step 3' for 62 s; rank 2 on h2 waits in 'bucket 4' of 'step 3'");
}

TEST(PeerVerdict, WhenAllWaitAlikeOperationAndHostsAreNamed) {
  const std::vector<PeerView> ranks = {waiting(0, "bucket 4", 61), waiting(1, "bucket 4", 63)};
  EXPECT_EQ(text(find_stuck(ranks, kLimits)),
            "2 rank(s) on h0, h1: no progress in 'bucket 4' of 'step 3' for 61 s, first of them "
            "rank 0");
}

TEST(PeerVerdict, DeadlineZeroIsNever) {
  std::vector<PeerView> ranks = {waiting(0, "bucket 4", 1e6), waiting(1, "bucket 4", 1e6)};
  ranks[1].silent_seconds = 1e6;
  EXPECT_FALSE(find_stuck(ranks, {.deadline = 0, .period = 0.5}));
  EXPECT_FALSE(find_silent(ranks, {.deadline = 0, .period = 0.5}));
}

}  // namespace
}  // namespace rankwise
