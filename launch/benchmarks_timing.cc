// SPDX-License-Identifier: Apache-2.0
#include "launch/benchmarks_timing.h"

#include <algorithm>
#include <deque>
#include <vector>

#include "runtime/event.h"

namespace rankwise {
namespace {

constexpr double kFewestCalls = 5.0;
constexpr double kMostCalls = 1000.0;

// Seconds of each call, sorted. All ranks begin together; all calls are queued before the first is
// waited for, so that a GPU never waits for the host.
std::vector<double> call_times(Communicator& ranks, Stream& stream, size_t calls,
                               const std::function<void()>& call) {
  std::deque<Event> marks;
  while (marks.size() <= calls) marks.emplace_back(stream.device());
  ranks.barrier("benchmark");
  marks[0].record(stream);
  for (size_t i = 1; i <= calls; ++i) {
    call();
    marks[i].record(stream);
  }
  marks[calls].wait();
  std::vector<double> times;
  for (size_t i = 1; i <= calls; ++i) {
    times.push_back(Event::seconds_between(marks[i - 1], marks[i]));
  }
  std::ranges::sort(times);
  return times;
}

}  // namespace

BenchmarkTiming time_on_all_ranks(Communicator& ranks, Stream& stream, double seconds,
                                  const std::function<void()>& call) {
  const auto slowest = [&](const std::vector<double>& times) {
    const std::vector<double> own = {times[times.size() / 2], times.front()};
    const auto all = all_reduce_numbers(ranks, own, ReduceOp::kMax, "benchmark");
    return BenchmarkTiming{all[0], all[1]};
  };
  call_times(ranks, stream, 3, call);  // the first call makes connections
  const double once = slowest(call_times(ranks, stream, 3, call)).median_seconds;
  const double calls = std::clamp(seconds / std::max(once, 1e-9), kFewestCalls, kMostCalls);
  return slowest(call_times(ranks, stream, static_cast<size_t>(calls), call));
}

}  // namespace rankwise
