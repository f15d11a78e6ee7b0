// SPDX-License-Identifier: Apache-2.0
// Activity: what one rank is doing, as the hang watchdog and error messages tell it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

namespace rankwise {

// Patience of work on files, whose speed nobody knows, and of the first step or batch of a kind,
// for which libraries choose their algorithms.
inline constexpr int kFilePatience = 10, kFirstPatience = 4;

// Thread-safe: the main thread writes, the watchdog reads.
class Activity {
 public:
  using Clock = std::chrono::steady_clock;

  struct Status {
    std::string work;              // the last that was reported
    std::string operation;         // the last that was begun or reported
    uint64_t collectives = 0;      // begun so far
    bool in_collective = false;    // waiting for other ranks, in `operation`
    int patience = 1;              // times the deadline that `work` may take between collectives
    bool repeats = false;          // work of the same kind follows
    Clock::time_point since = {};  // when `operation` began or, a collective, ended

    // "'step 12'"; in a collective "'gradient bucket 4' of 'step 12'".
    std::string doing() const;
  };

  // Work outside collectives that has begun: "step 12", "load model.layers.3.mlp.up_proj.weight".
  // patience: reading and writing files may take so many times the deadline.
  // repeats: more work of its kind follows, which may take a multiple of its time (peer_verdict.h).
  void report(std::string_view operation, int patience = 1, bool repeats = false);
  // A collective, from here until end_collective() unless it is only put into a stream.
  void begin_collective(std::string_view operation);
  void end_collective();
  Status status() const;

  // Called at the beginning of all of these, on the calling thread; for tests that let a rank fail
  // at a named place.
  void set_observer(std::function<void(std::string_view operation)> observer);

 private:
  // Changes the status, then calls the observer.
  void begin(std::string_view operation, const std::function<void()>& change);

  mutable std::mutex mutex_;
  Status status_;
  std::function<void(std::string_view)> observer_;
};

}  // namespace rankwise
