// SPDX-License-Identifier: Apache-2.0
// Ranks as threads of one process.
#pragma once

#include <functional>

#include "parallel/communicator.h"

namespace rankwise {

// Runs body(rank's communicator) on `size` threads and joins them; the first exception of any rank
// is thrown again, and the other ranks' collectives then fail instead of hanging.
void run_ranks_as_threads(int size, const std::function<void(Communicator&)>& body);

}  // namespace rankwise
