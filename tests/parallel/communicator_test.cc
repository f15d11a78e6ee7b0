// SPDX-License-Identifier: Apache-2.0
#include "parallel/communicator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

#include "tests/parallel/communicator_contract.h"
#include "tests/support/error_of.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

TEST(SingleCommunicator, KeepsTheContract) {
  const auto alone = make_single_communicator();
  EXPECT_EQ(alone->rank(), 0);
  EXPECT_EQ(alone->size(), 1);
  testing::expect_communicator_contract(*alone);
  testing::expect_unknown_root_is_an_error_naming_the_operation(*alone);
}

TEST(SingleCommunicatorDeathTest, AbortEndsTheProcessWithTheExitCode) {
  const auto alone = make_single_communicator();
  EXPECT_EXIT(alone->abort(72), ::testing::ExitedWithCode(72), "");
}

TEST(SingleCommunicatorDeathTest, StridedTensorIsOurMistake) {
  const auto alone = make_single_communicator();
  Stream stream;
  std::vector<float> values(12);
  const Tensor columns = testing::view_of(values).reshaped({3, 4}).columns(1, 3);
  EXPECT_DEATH(alone->all_reduce(columns, ReduceOp::kSum, "columns", stream), "columns");
}

TEST(ThreadCommunicator, KeepsTheContract) {
  for (int size : {1, 2, 3, 4}) {
    run_ranks_as_threads(size, [&](Communicator& c) {
      EXPECT_EQ(c.size(), size);
      testing::expect_communicator_contract(c);
    });
  }
}

TEST(ThreadCommunicator, AddsInRankOrder) {
  // (1e8 + 1) - 1e8 is 0 in float, 1e8 - 1e8 + 1 is 1: the order shows in the result.
  const std::vector<float> contributions{1e8f, 1.0f, -1e8f};
  run_ranks_as_threads(3, [&](Communicator& c) {
    Stream stream;
    std::vector<float> value{contributions[static_cast<size_t>(c.rank())]};
    c.all_reduce(testing::view_of(value), ReduceOp::kSum, "ordered", stream);
    EXPECT_EQ(value[0], 0.0f);
  });
}

TEST(ThreadCommunicator, UnknownRootNamesTheOperation) {
  EXPECT_THROW(
      run_ranks_as_threads(2,
                           [](Communicator& c) {
                             testing::expect_unknown_root_is_an_error_naming_the_operation(c);
                             throw std::out_of_range("reached");
                           }),
      std::out_of_range);
}

TEST(ThreadCommunicator, FailureOfOneRankFailsTheWaitingOnes) {
  std::atomic<int> informed = 0;
  const auto body = [&](Communicator& c) {
    if (c.rank() == 1) throw std::runtime_error("rank 1 lost its data");
    Stream stream;
    std::vector<float> value(1);
    const std::string message = testing::error_of<std::exception>([&] {
      c.all_reduce(testing::view_of(value), ReduceOp::kSum, "gradient bucket 3", stream);
    });
    EXPECT_EQ(message.rfind("gradient bucket 3: rank 1 ", 0), 0u) << message;
    ++informed;
  };
  EXPECT_EQ(testing::error_of<std::exception>([&] { run_ranks_as_threads(3, body); }),
            "rank 1 lost its data");
  EXPECT_EQ(informed, 2);
}

TEST(ThreadCommunicator, FailureReachesRanksWaitingInAnotherPart) {
  const auto body = [](Communicator& c) {
    const auto part = c.split(c.rank() / 2, c.rank(), "pair");
    if (c.rank() == 3) throw std::runtime_error("no memory");
    if (c.rank() == 2) part->barrier("pair barrier");
    c.barrier("world barrier");
  };
  EXPECT_EQ(testing::error_of<std::exception>([&] { run_ranks_as_threads(4, body); }), "no memory");
}

TEST(ThreadCommunicator, RankThatLeavesEarlyFailsTheOthers) {
  const auto body = [](Communicator& c) {
    if (c.rank() == 0) c.barrier("end of epoch");
  };
  const std::string message =
      testing::error_of<std::exception>([&] { run_ranks_as_threads(2, body); });
  EXPECT_EQ(message.rfind("end of epoch: rank 1 has left (rank 0, host ", 0), 0u) << message;
}

TEST(ThreadCommunicator, DifferentOperationsAreNamed) {
  const auto body = [](Communicator& c) { c.barrier(c.rank() == 0 ? "save" : "load"); };
  const std::string message =
      testing::error_of<std::exception>([&] { run_ranks_as_threads(2, body); });
  EXPECT_NE(message.find("save"), std::string::npos);
  EXPECT_NE(message.find("load"), std::string::npos);
}

TEST(ThreadCommunicator, DifferentSizesAreRefused) {
  const auto body = [](Communicator& c) {
    Stream stream;
    std::vector<float> values(c.rank() == 0 ? 4 : 5);
    c.all_reduce(testing::view_of(values), ReduceOp::kSum, "loss", stream);
  };
  EXPECT_THROW(run_ranks_as_threads(2, body), CommunicationError);
}

}  // namespace
}  // namespace rankwise
