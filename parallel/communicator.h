// SPDX-License-Identifier: Apache-2.0
// Communicator: rank, size and collectives; over MPI, over threads of one process, or alone.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/activity.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

enum class ReduceOp { kSum, kMax, kMin };

// A collective under way; wait() must be called exactly once. The tensors belong to the collective
// until then. On a GPU, wait() does not block the host: it makes work that is put into the stream
// afterwards wait.
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
  explicit Communicator(std::shared_ptr<Activity> activity) : activity_(std::move(activity)) {}
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  // What this rank is doing: shared with all communicators that were split from the same one.
  Activity& activity() const { return *activity_; }
  std::shared_ptr<Activity> shared_activity() const { return activity_; }
  // Bytes that this rank has sent through this communicator since it was made, if collectives go
  // around a ring: 2 (n - 1) / n of the tensor for an all-reduce, n - 1 times its own part for an
  // all-gather, (n - 1) / n of the tensor for a broadcast. Tensors only, not texts.
  int64_t wire_bytes() const { return wire_bytes_; }

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Tensors of F32, F64, I32, I64, in place, on `stream`; contiguous. In host memory, or with NCCL
  // on the GPU of the stream, where BF16 is reduced too.
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
  virtual std::unique_ptr<PendingCollective> start_all_gather(const Tensor& out, const Tensor& in,
                                                              std::string_view operation,
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

 protected:
  std::shared_ptr<Activity> activity_;
  int64_t wire_bytes_ = 0;
};

// One rank; every collective is a no-op.
std::unique_ptr<Communicator> make_single_communicator();

// Sum over ranks of host numbers, for metrics and counters.
std::vector<double> all_reduce_numbers(Communicator& communicator, std::vector<double> values,
                                       ReduceOp op, std::string_view operation);

}  // namespace rankwise
