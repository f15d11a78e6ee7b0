// SPDX-License-Identifier: Apache-2.0
// Failpoints: named places where a build made for tests can fail on purpose.
#pragma once

#include <string_view>

namespace rankwise {

// `text`: "NAME:RANK:HIT:ACTION[;...]"; empty disarms all. On this rank (-1: every rank) the HIT-th
// time (from 1) that a failpoint is reached, once, it acts: kill (SIGKILL), abort, throw
// (DiskError), sleep:MS, or errno:E, which makes the failpoint throw the DiskError of that error
// number. ConfigError for anything else, and always in a build without failpoints. Call it before
// other threads reach failpoints.
void arm_failpoints(std::string_view text, int rank);

namespace detail {
void reach_failpoint(std::string_view name);
}  // namespace detail

}  // namespace rankwise

// Compiled to nothing unless RANKWISE_FAILPOINTS is on (CMake).
#if RANKWISE_FAILPOINTS
#define RW_FAILPOINT(name) ::rankwise::detail::reach_failpoint(name)
#else
#define RW_FAILPOINT(name) static_cast<void>(0)
#endif
