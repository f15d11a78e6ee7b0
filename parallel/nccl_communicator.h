// SPDX-License-Identifier: Apache-2.0
// NCCL: collectives of tensors in GPU memory, one GPU per rank.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace rankwise {

// Whether this build has NCCL. What is declared below stands behind `if constexpr (kHasNccl)`.
inline constexpr bool kHasNccl = RANKWISE_HAS_NCCL != 0;

// Called by all ranks of `host`, more than one, each with its own GPU. Tensors on `device` travel
// by NCCL: plain collectives on the stream they are given, started ones on a stream of the
// communicator, beside the work given to theirs meanwhile. Everything else is `host`'s. split()
// makes parts of the same kind, whose started collectives share that stream, so that all ranks run
// them in the order they were started in; a part of one rank is `host`'s alone. CommunicationError
// when the ranks do not find each other in time, naming them.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host,
                                                     Device device);

}  // namespace rankwise
