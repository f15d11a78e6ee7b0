// SPDX-License-Identifier: Apache-2.0
// A signal to the calling thread, which has taken it when the call returns.
#pragma once

#include <csignal>

namespace rankwise::testing {

// Also one that the thread blocks, as all but one do after listen_for_requests().
inline void raise_here(int signal) {
  sigset_t one;
  sigset_t before;
  sigemptyset(&one);
  sigaddset(&one, signal);
  pthread_sigmask(SIG_UNBLOCK, &one, &before);
  std::raise(signal);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace rankwise::testing
