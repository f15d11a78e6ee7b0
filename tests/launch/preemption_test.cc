// SPDX-License-Identifier: Apache-2.0
#include "launch/preemption.h"

#include <gtest/gtest.h>
#include <omp.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>

#include "kernels/matmul.h"
#include "runtime/arena.h"
#include "runtime/rng.h"
#include "tests/support/raise_here.h"

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
  testing::raise_here(SIGUSR1);
  testing::raise_here(SIGUSR2);
  EXPECT_EQ(pending_request(), RunRequest::kStop);
  EXPECT_EQ(pending_request(), RunRequest::kStop);
  forget_requests();
  EXPECT_EQ(pending_request(), RunRequest::kNone);
}

// To the process: a thread of its own takes it, while the others block it.
TEST_F(Requests, ComeFromOutside) {
  sigset_t blocked;
  pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  for (const int signal : {SIGUSR1, SIGUSR2, SIGTERM}) EXPECT_EQ(sigismember(&blocked, signal), 1);
  kill(getpid(), SIGUSR1);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (pending_request() == RunRequest::kNone && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(pending_request(), RunRequest::kStop);
}

TEST_F(Requests, ToSaveIsToldOnce) {
  testing::raise_here(SIGUSR2);
  EXPECT_EQ(pending_request(), RunRequest::kSave);
  EXPECT_EQ(pending_request(), RunRequest::kNone);
}

// In a process of its own: TERM is remembered for good.
TEST_F(Requests, OneTermIsARequestAndALaterOneEndsTheProcess) {
  const auto terminate = [](int pause_milliseconds) {
    if (is_terminated()) _exit(1);
    testing::raise_here(SIGTERM);
    if (pending_request() != RunRequest::kTerminate || !is_terminated()) _exit(1);
    usleep(static_cast<unsigned>(pause_milliseconds) * 1000);
    testing::raise_here(SIGTERM);
    _exit(0);
  };
  EXPECT_EXIT(terminate(0), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(terminate(600), ::testing::KilledBySignal(SIGTERM), "");
}

TEST_F(Requests, IntEndsTheProcess) {
  EXPECT_EXIT(std::raise(SIGINT), ::testing::KilledBySignal(SIGINT), "");
}

// Matrix kernels that are generated at run time may keep values where a handler would have its
// stack, on any of the threads that compute.
TEST_F(Requests, LeaveProductsUnderWayAsTheyAre) {
  omp_set_num_threads(2);
  Arena arena;
  Stream stream;
  const auto values = [&](const Shape& shape) {
    const Tensor t = arena.allocate("values", DType::kF32, shape);
    Rng(1, "values").fill_normal({t.data<float>(), static_cast<size_t>(t.numel())}, 0.0f, 1.0f);
    return t;
  };
  const Tensor x = values({448, 44});
  const Tensor w = values({32, 44});
  const Tensor dy = values({448, 32});
  const auto products = [&] {
    const std::vector<Tensor> out = {values({448, 32}), values({448, 44}), values({32, 44})};
    linear(out[0], x, w, 0.0f, stream);
    linear_backward_input(out[1], dy, w, 0.0f, stream);
    linear_backward_weight(out[2], dy, x, stream);
    return out;
  };
  const std::vector<Tensor> expected = products();
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  std::thread sender([&] {
    while (std::chrono::steady_clock::now() < end) kill(getpid(), SIGUSR2);
  });
  int changed = 0;
  while (std::chrono::steady_clock::now() < end) {
    const Arena::Scope scope = arena.scope("values");
    const std::vector<Tensor> out = products();
    for (size_t i = 0; i < out.size(); ++i) {
      const auto bytes = static_cast<size_t>(out[i].bytes());
      changed += std::memcmp(out[i].raw(), expected[i].raw(), bytes) != 0 ? 1 : 0;
    }
  }
  sender.join();
  EXPECT_EQ(changed, 0);
  EXPECT_EQ(pending_request(), RunRequest::kSave);
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
