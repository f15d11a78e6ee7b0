// SPDX-License-Identifier: Apache-2.0
// NCCL: collectives of tensors in GPU memory, one GPU per rank.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace rankwise {

class CommunicationStream;

// Whether this build has NCCL. What is declared below stands behind `if constexpr (kHasNccl)`.
inline constexpr bool kHasNccl = RANKWISE_HAS_NCCL != 0;

// Makes the communicators of one GPU. Their started collectives share a stream, beside the work
// given to the others meanwhile, so that all ranks run them in the order they were started in;
// plain ones run on the stream they are given.
class NcclConnector {
 public:
  explicit NcclConnector(Device device);

  // Called by all ranks of `host`, each with its own GPU. Tensors on the GPU travel by NCCL,
  // everything else is `host`'s; of one rank the result is `host`. split() makes parts of the same
  // kind. most_blocks: thread blocks that a collective may occupy, 0 for NCCL's choice; few of them
  // leave the GPU to what is computed meanwhile. CommunicationError when the ranks do not find each
  // other in time, naming them.
  std::unique_ptr<Communicator> connect(std::unique_ptr<Communicator> host, int most_blocks) const;

 private:
  Device device_;
  std::shared_ptr<CommunicationStream> communication_;
};

}  // namespace rankwise
