// SPDX-License-Identifier: Apache-2.0
#include "launch/benchmarks_timing.h"

#include <algorithm>
#include <deque>
#include <vector>

#include "runtime/event.h"

namespace rankwise {
namespace {

// Calls whose time is asked for together: enough that a GPU never waits for the host.
constexpr double kQueuedSeconds = 0.02;
constexpr double kMostQueuedCalls = 64.0;

constexpr double kFewestCalls = 5.0;
constexpr double kMostCalls = 200.0;

// Seconds of each call, sorted. All ranks begin together.
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

BenchmarkTiming time_calls(Stream& stream, double seconds, const std::function<void()>& call) {
  for (int warm_up = 0; warm_up < 3; ++warm_up) call();
  std::deque<Event> marks;
  std::vector<double> times;
  double total = 0.0;
  size_t queued = 1;
  while (times.size() < 5 || total < seconds) {
    while (marks.size() <= queued) marks.emplace_back(stream.device());
    marks[0].record(stream);
    for (size_t i = 1; i <= queued; ++i) {
      call();
      marks[i].record(stream);
    }
    marks[queued].wait();
    for (size_t i = 1; i <= queued; ++i) {
      times.push_back(Event::seconds_between(marks[i - 1], marks[i]));
      total += times.back();
    }
    const double wanted = kQueuedSeconds / std::max(times.back(), 1e-9);
    queued = static_cast<size_t>(std::clamp(wanted, 1.0, kMostQueuedCalls));
  }
  std::ranges::sort(times);
  return {times[times.size() / 2], times.front()};
}

}  // namespace rankwise
