// SPDX-License-Identifier: Apache-2.0
#include "launch/preemption.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <string_view>
#include <thread>

namespace rankwise {
namespace {

// Launchers send TERM to a process and to its group: both are one request.
constexpr int64_t kOneTermNanoseconds = 500'000'000;

std::atomic<int> g_request{0};
std::atomic<int64_t> g_terminated{0};                  // when the first TERM came
static_assert(std::atomic<int>::is_always_lock_free);  // a handler may use nothing else

int64_t nanoseconds_now() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

extern "C" void on_request(int signal) {
  if (signal == SIGTERM) {
    int64_t first = 0;
    const int64_t now = nanoseconds_now();
    if (!g_terminated.compare_exchange_strong(first, now) && now - first > kOneTermNanoseconds) {
      std::signal(SIGTERM, SIG_DFL);
      std::raise(SIGTERM);
    }
  }
  raise_request(signal == SIGUSR1   ? RunRequest::kStop
                : signal == SIGUSR2 ? RunRequest::kSave
                                    : RunRequest::kTerminate);
}

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

void raise_request(RunRequest request) {
  int known = g_request.load();
  while (known < static_cast<int>(request) &&
         !g_request.compare_exchange_weak(known, static_cast<int>(request))) {
  }
}

// Generated matrix kernels keep values below the stack pointer, which a handler on their stack
// would overwrite. So it runs on a thread that computes nothing, or on one that a library started
// while it was loaded (OpenBLAS does), whose code is compiled; all others inherit that they block.
void listen_for_requests() {
  static std::once_flag listening;
  std::call_once(listening, [] {
    sigset_t requests;
    sigemptyset(&requests);
    for (const int signal : {SIGUSR1, SIGUSR2, SIGTERM}) sigaddset(&requests, signal);
    pthread_sigmask(SIG_BLOCK, &requests, nullptr);
    for (const int signal : {SIGUSR1, SIGUSR2, SIGTERM}) {
      struct sigaction action = {};
      action.sa_handler = on_request;
      action.sa_flags = SA_RESTART;
      sigaction(signal, &action, nullptr);
    }
    std::thread([requests] {
      pthread_sigmask(SIG_UNBLOCK, &requests, nullptr);
      for (;;) pause();
    }).detach();
  });
}

RunRequest pending_request() {
  int save = static_cast<int>(RunRequest::kSave);
  if (g_request.compare_exchange_strong(save, 0)) return RunRequest::kSave;
  return static_cast<RunRequest>(save);
}

void forget_requests() { g_request = 0; }

bool is_terminated() { return g_terminated != 0; }

bool BatchJob::ends_within(int64_t seconds) const {
  return end_time && static_cast<int64_t>(std::time(nullptr)) >= *end_time - seconds;
}

BatchJob batch_job() {
  BatchJob job;
  const std::string_view id = variable("SLURM_JOB_ID");
  const std::string_view restart = variable("SLURM_RESTART_COUNT");
  job.name = fmt::format("{}-{}", id.empty() ? fmt::format("p{}", getpid()) : id,
                         restart.empty() ? "0" : restart);
  const std::string_view end = variable("SLURM_JOB_END_TIME");
  int64_t seconds = 0;
  const auto parsed = std::from_chars(end.data(), end.data() + end.size(), seconds);
  if (!end.empty() && parsed.ec == std::errc() && parsed.ptr == end.data() + end.size()) {
    job.end_time = seconds;
  }
  return job;
}

}  // namespace rankwise
