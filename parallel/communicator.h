// SPDX-License-Identifier: Apache-2.0
// Communicator: rank, size and collectives; over MPI, over threads of one process, or alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

enum class ReduceOp { kSum, kMax, kMin };

// A collective under way; wait() must be called exactly once. The tensor belongs to the collective
// until then.
class PendingCollective {
 public:
  virtual ~PendingCollective() = default;
  virtual void wait() = 0;
  // Lets the library move data: without a progress thread MPI does so only inside its own calls.
  virtual void progress() {}
};

// Collectives are called by all ranks in the same order. `operation` names the call in errors and
// in the hang report ("gradient bucket 3"). All are bit-identical on every rank. Failures are
// CommunicationError with operation, rank and host.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Tensors of F32, F64, I32, I64, in place, on `stream`; in host memory unless the rank is alone.
  virtual void all_reduce(const Tensor& tensor, ReduceOp op, std::string_view operation,
                          Stream& stream) = 0;
  virtual std::unique_ptr<PendingCollective> start_all_reduce(const Tensor& tensor, ReduceOp op,
                                                              std::string_view operation,
                                                              Stream& stream) = 0;
  virtual void broadcast(const Tensor& tensor, int root, std::string_view operation,
                         Stream& stream) = 0;
  // out (size, ...): contribution of rank r at index r.
  virtual void all_gather(const Tensor& out, const Tensor& in, std::string_view operation,
                          Stream& stream) = 0;
  virtual void barrier(std::string_view operation) = 0;

  // Control traffic between hosts, small: everybody gets everybody's text.
  virtual std::vector<std::string> gather_text(const std::string& text,
                                               std::string_view operation) = 0;
  virtual std::string broadcast_text(const std::string& text, int root,
                                     std::string_view operation) = 0;
  // Ranks of equal color form a new communicator, ordered by key.
  virtual std::unique_ptr<Communicator> split(int color, int key, std::string_view name) = 0;
  // Ends all ranks of the job with this exit code. Does not return.
  [[noreturn]] virtual void abort(int exit_code) = 0;
};

// One rank; every collective is a no-op.
std::unique_ptr<Communicator> make_single_communicator();

// Runs body(rank's communicator) on `size` threads and joins them; the first exception of any rank
// is thrown again, and the other ranks' collectives then fail instead of hanging. For tests.
void run_ranks_as_threads(int size, const std::function<void(Communicator&)>& body);

// Sum over ranks of host numbers, for metrics and counters.
std::vector<double> all_reduce_numbers(Communicator& communicator, std::vector<double> values,
                                       ReduceOp op, std::string_view operation);

}  // namespace rankwise
