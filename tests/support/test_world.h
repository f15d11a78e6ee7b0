// SPDX-License-Identifier: Apache-2.0
// The world communicator of the running test program: MPI under mpirun, one rank otherwise.
#pragma once

#include "parallel/communicator.h"

namespace rankwise::testing {

Communicator& world();

}  // namespace rankwise::testing
