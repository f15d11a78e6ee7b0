// SPDX-License-Identifier: Apache-2.0
// What communicators share: argument checks, the record of a collective, bytes on the wire.
#pragma once

#include <string>
#include <string_view>

#include "parallel/communicator.h"

namespace rankwise {

// Abort on tensors a communicator of `size` ranks on `device` cannot take: these are our own
// mistakes, never the user's. One rank moves nothing: its tensors may be on any device.
void check_reducible(const Tensor& tensor, int size, std::string_view operation,
                     Device device = {});
void check_transferable(const Tensor& tensor, int size, std::string_view operation,
                        Device device = {});
void check_gatherable(const Tensor& out, const Tensor& in, int size, std::string_view operation,
                      Device device = {});

// One collective in the record of what this rank is doing, from construction to destruction.
class CollectiveRecord {
 public:
  CollectiveRecord(Activity& activity, std::string_view operation) : activity_(activity) {
    activity_.begin_collective(operation);
  }
  ~CollectiveRecord() { activity_.end_collective(); }
  CollectiveRecord(const CollectiveRecord&) = delete;
  CollectiveRecord& operator=(const CollectiveRecord&) = delete;

 private:
  Activity& activity_;
};

// What one of `size` ranks in a ring sends, see Communicator::wire_bytes().
inline int64_t reduce_wire_bytes(const Tensor& tensor, int size) {
  return 2 * (size - 1) * tensor.bytes() / size;
}
inline int64_t gather_wire_bytes(const Tensor& in, int size) { return (size - 1) * in.bytes(); }
inline int64_t broadcast_wire_bytes(const Tensor& tensor, int size) {
  return (size - 1) * tensor.bytes() / size;
}

// all_gather of one rank.
void gather_alone(const Tensor& out, const Tensor& in, Stream& stream);

// Name of this machine, for error messages.
std::string host_name();

// abort() of communicators within one process: flushes what was printed, runs no destructor.
[[noreturn]] void end_process(int exit_code);

// Of one rank, in measuring mode, and where the reduction takes place at once.
class FinishedCollective : public PendingCollective {
 public:
  void wait() override {}
};

// What is started takes place at once: later changes of the tensor do not enter it.
class ImmediateCommunicator : public Communicator {
 public:
  using Communicator::Communicator;
  std::unique_ptr<PendingCollective> start_all_reduce(const Tensor& tensor, ReduceOp op,
                                                      std::string_view operation,
                                                      Stream& stream) override {
    all_reduce(tensor, op, operation, stream);
    return std::make_unique<FinishedCollective>();
  }
  std::unique_ptr<PendingCollective> start_all_gather(const Tensor& out, const Tensor& in,
                                                      std::string_view operation,
                                                      Stream& stream) override {
    all_gather(out, in, operation, stream);
    return std::make_unique<FinishedCollective>();
  }
};

}  // namespace rankwise
