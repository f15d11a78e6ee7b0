// SPDX-License-Identifier: Apache-2.0
// MpiCommunicator: collectives over MPI for host tensors and control traffic.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <string>

#include "parallel/communicator.h"

namespace rankwise {

// CommunicationError with operation, MPI's own text, rank and host unless `code` is MPI_SUCCESS.
void check_mpi(int code, std::string_view operation, int rank);

class MpiCommunicator : public Communicator {
 public:
  enum class Ownership { kBorrowed, kOwned };
  // Elements per MPI call: an MPI count is an int, so larger tensors travel in several calls.
  static constexpr int64_t kMaxCount = int64_t{1} << 30;

  // Sets MPI_ERRORS_RETURN on `comm`. An owned `comm` is freed by the destructor, which all ranks
  // reach in the same order. `max_count` is lowered only by tests.
  MpiCommunicator(MPI_Comm comm, Ownership ownership, int64_t max_count = kMaxCount,
                  std::shared_ptr<Activity> activity = std::make_shared<Activity>());
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void all_reduce(const Tensor& tensor, ReduceOp op, std::string_view operation,
                  Stream& stream) override;
  std::unique_ptr<PendingCollective> start_all_reduce(const Tensor& tensor, ReduceOp op,
                                                      std::string_view operation,
                                                      Stream& stream) override;
  void broadcast(const Tensor& tensor, int root, std::string_view operation,
                 Stream& stream) override;
  void all_gather(const Tensor& out, const Tensor& in, std::string_view operation,
                  Stream& stream) override;
  std::unique_ptr<PendingCollective> start_all_gather(const Tensor& out, const Tensor& in,
                                                      std::string_view operation,
                                                      Stream& stream) override;
  void barrier(std::string_view operation) override;
  std::vector<std::string> gather_text(const std::string& text,
                                       std::string_view operation) override;
  std::string broadcast_text(const std::string& text, int root,
                             std::string_view operation) override;
  std::unique_ptr<Communicator> split(int color, int key, std::string_view name) override;
  [[noreturn]] void abort(int exit_code) override;

 private:
  void broadcast_bytes(void* data, int64_t bytes, int root, std::string_view operation);

  // Copies `in` to this rank's place in `out`; all places.
  std::byte* place_own_part(const Tensor& out, const Tensor& in) const;

  MPI_Comm comm_;
  Ownership ownership_;
  int64_t max_count_;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace rankwise
