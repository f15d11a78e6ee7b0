// SPDX-License-Identifier: Apache-2.0
#include "launch/preemption.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <ctime>

namespace rankwise {
namespace {

class Requests : public ::testing::Test {
 protected:
  void SetUp() override {
    listen_for_requests();
    forget_requests();
  }
};

TEST_F(Requests, StrongestHoldsUntilItIsForgotten) {
  EXPECT_EQ(pending_request(), RunRequest::kNone);
  std::raise(SIGUSR1);
  std::raise(SIGUSR2);
  EXPECT_EQ(pending_request(), RunRequest::kStop);
  EXPECT_EQ(pending_request(), RunRequest::kStop);
  forget_requests();
  EXPECT_EQ(pending_request(), RunRequest::kNone);
}

TEST_F(Requests, ToSaveIsToldOnce) {
  std::raise(SIGUSR2);
  EXPECT_EQ(pending_request(), RunRequest::kSave);
  EXPECT_EQ(pending_request(), RunRequest::kNone);
}

// In a process of its own: TERM is remembered for good.
TEST_F(Requests, OneTermIsARequestAndALaterOneEndsTheProcess) {
  const auto terminate = [](int pause_milliseconds) {
    if (is_terminated()) _exit(1);
    std::raise(SIGTERM);
    if (pending_request() != RunRequest::kTerminate || !is_terminated()) _exit(1);
    usleep(static_cast<unsigned>(pause_milliseconds) * 1000);
    std::raise(SIGTERM);
    _exit(0);
  };
  EXPECT_EXIT(terminate(0), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(terminate(600), ::testing::KilledBySignal(SIGTERM), "");
}

TEST_F(Requests, IntEndsTheProcess) {
  EXPECT_EXIT(std::raise(SIGINT), ::testing::KilledBySignal(SIGINT), "");
}

class Batch : public ::testing::Test {
 protected:
  void TearDown() override {
    for (const char* name : {"SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_END_TIME"}) {
      unsetenv(name);
    }
  }
  static BatchJob ending_in(int64_t seconds) {
    setenv("SLURM_JOB_END_TIME", std::to_string(std::time(nullptr) + seconds).c_str(), 1);
    return batch_job();
  }
};

TEST_F(Batch, JobIsNamedByNumberAndRestart) {
  TearDown();
  EXPECT_EQ(batch_job().name, "p" + std::to_string(getpid()) + "-0");
  setenv("SLURM_JOB_ID", "71", 1);
  EXPECT_EQ(batch_job().name, "71-0");
  setenv("SLURM_RESTART_COUNT", "2", 1);
  EXPECT_EQ(batch_job().name, "71-2");
}

TEST_F(Batch, JobIsEndingTwoMinutesBeforeItsEnd) {
  EXPECT_FALSE(ending_in(3600).is_ending());
  EXPECT_FALSE(ending_in(150).is_ending());
  EXPECT_TRUE(ending_in(119).is_ending());
  EXPECT_TRUE(ending_in(-10).is_ending());
}

TEST_F(Batch, EndThatIsNoNumberIsNone) {
  for (const char* text : {"", "Unknown", "12x", "99999999999999999999"}) {
    setenv("SLURM_JOB_END_TIME", text, 1);
    EXPECT_FALSE(batch_job().end_time.has_value()) << text;
    EXPECT_FALSE(batch_job().is_ending()) << text;
  }
}

}  // namespace
}  // namespace rankwise
