// SPDX-License-Identifier: Apache-2.0
// What all communicators share: argument checks, the host's name, a collective already finished.
#pragma once

#include <string>
#include <string_view>

#include "parallel/communicator.h"

namespace rankwise {

// Abort on tensors a communicator of `size` ranks cannot take: these are our own mistakes, never
// the user's. In-place collectives of one rank move nothing: their tensors may be on any device.
void check_reducible(const Tensor& tensor, int size, std::string_view operation);
void check_transferable(const Tensor& tensor, int size, std::string_view operation);
void check_gatherable(const Tensor& out, const Tensor& in, int size, std::string_view operation);

// Name of this machine, for error messages.
std::string host_name();

// abort() of communicators within one process: flushes what was printed, runs no destructor.
[[noreturn]] void end_process(int exit_code);

// Of one rank, in measuring mode, and where the reduction takes place at once.
class FinishedCollective : public PendingCollective {
 public:
  void wait() override {}
};

}  // namespace rankwise
