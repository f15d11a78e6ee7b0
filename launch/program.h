// SPDX-License-Identifier: Apache-2.0
// The program: command line to verb to exit code, and the one place where errors are reported.
#pragma once

#include <functional>

#include "parallel/communicator.h"

namespace rankwise {

// Called once the ranks are connected, before the verb runs; tests make a rank fail with it.
using Preparation = std::function<void(Communicator& world)>;

// Returns a code of docs/exit_codes.md. A failure is one line on stderr, "rankwise: error: ...",
// with rank, host and operation when there are several ranks; then all ranks end.
int run_program(int argc, char** argv, const Preparation& prepare = {});

}  // namespace rankwise
