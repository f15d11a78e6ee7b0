// SPDX-License-Identifier: Apache-2.0
// Times of calls by the clock of the device, alone or on all ranks together.
#pragma once

#include <functional>

#include "parallel/communicator.h"

namespace rankwise {

struct BenchmarkTiming {
  double median_seconds = 0.0;
  double best_seconds = 0.0;
};

// Calls `call` for about `seconds`, at least five times after a warm-up: the same number on all
// ranks, which begin together. Times of the slowest rank.
BenchmarkTiming time_on_all_ranks(Communicator& ranks, Stream& stream, double seconds,
                                  const std::function<void()>& call);

}  // namespace rankwise
