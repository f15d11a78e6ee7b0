// SPDX-License-Identifier: Apache-2.0
// Preemption: what signals and the batch system ask of a running job.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace rankwise {

// By strength: of several the strongest holds.
enum class RunRequest {
  kNone,
  kSave,       // USR2: a checkpoint, then go on
  kTerminate,  // TERM: as kStop, without a checkpoint if the last one is young
  kStop        // USR1, or the time limit: a checkpoint, then ExitCode::kRequeue
};

// From now on USR1, USR2 and the first TERM only leave a request. A second TERM, half a second
// later or more, and INT end the process at once: what is committed stays, as a rename happens
// whole or not at all. To be called before any other thread is started: threads and processes that
// are started later block the three, so that they reach a thread that waits for them.
void listen_for_requests();
// The strongest since the last forget_requests(). kSave is told once.
RunRequest pending_request();
void forget_requests();
// As if a signal had asked. Async-signal-safe.
void raise_request(RunRequest request);
// Whether TERM has come, at any time: who launched this process is ending it.
bool is_terminated();

// What the batch system says about this job. Reads the environment.
struct BatchJob {
  std::string name;                 // "<job>-<restart>", or of the process without a batch system
  std::optional<int64_t> end_time;  // seconds since 1970
  // Two minutes before the end, and later.
  bool is_ending() const { return ends_within(120); }
  bool ends_within(int64_t seconds) const;
};
BatchJob batch_job();

}  // namespace rankwise
