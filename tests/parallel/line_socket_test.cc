// SPDX-License-Identifier: Apache-2.0
#include "parallel/line_socket.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>

namespace rankwise {
namespace {

using Lines = std::vector<std::string>;

struct Pair {
  LineListener listener;
  LineSocket near = LineSocket::connect("127.0.0.1", listener.port(), 1000);
  LineSocket far = [this] {
    pollfd waiting = {listener.descriptor(), POLLIN, 0};
    poll(&waiting, 1, 1000);
    return listener.accept();
  }();
};

Lines await(LineSocket& socket) {
  pollfd data = {socket.descriptor(), POLLIN, 0};
  poll(&data, 1, 1000);
  return socket.receive();
}

TEST(LineSocket, LinesArriveWholeAndInOrder) {
  Pair pair;
  ASSERT_TRUE(pair.near.is_open() && pair.far.is_open());
  EXPECT_EQ(pair.far.receive(), Lines{}) << "nothing is there, and nothing waits for it";
  pair.near.send("one\ntw");
  pair.near.send("o");
  Lines lines;
  while (lines.size() < 3) std::ranges::copy(await(pair.far), std::back_inserter(lines));
  EXPECT_EQ(lines, (Lines{"one", "tw", "o"}));
}

TEST(LineSocket, LastLinesOfAPeerThatIsGoneAreKept) {
  Pair pair;
  pair.near.send("goodbye");
  pair.near = LineSocket();
  EXPECT_EQ(await(pair.far), Lines{"goodbye"});
  if (pair.far.is_open()) await(pair.far);
  EXPECT_FALSE(pair.far.is_open());
}

TEST(LineSocket, PeerThatSendsNoLinesIsDropped) {
  Pair pair;
  pair.near.send(std::string(5000, 'x'));
  while (pair.far.is_open()) await(pair.far);
  EXPECT_FALSE(pair.far.is_open());
}

TEST(LineSocket, SendingToAPeerThatDoesNotReadNeitherWaitsNorCutsLines) {
  Pair pair;
  const std::string line(1000, 'y');
  for (int i = 0; i < 20000; ++i) pair.near.send(line);
  Lines lines;
  for (int i = 0; i < 1000; ++i) {
    pair.near.flush();
    std::ranges::copy(pair.far.receive(), std::back_inserter(lines));
  }
  EXPECT_GT(lines.size(), 10u);
  EXPECT_LT(lines.size(), 20000u);
  EXPECT_TRUE(std::ranges::all_of(lines, [&](const auto& got) { return got == line; }));
}

TEST(LineSocket, NobodyAtThePortIsNoConnection) {
  const int port = [] { return LineListener().port(); }();
  EXPECT_FALSE(LineSocket::connect("127.0.0.1", port, 1000).is_open());
  EXPECT_FALSE(LineSocket::connect("no address", port, 1000).is_open());
}

TEST(LocalAddresses, LoopbackComesFirst) {
  const Lines addresses = local_addresses();
  EXPECT_TRUE(std::ranges::is_partitioned(addresses, is_loopback));
  EXPECT_TRUE(is_loopback("127.0.0.1") && is_loopback("::1") && !is_loopback("10.127.0.1"));
}

}  // namespace
}  // namespace rankwise
