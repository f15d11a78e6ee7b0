// SPDX-License-Identifier: Apache-2.0
#include "parallel/mpi_communicator.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "parallel/collective.h"

namespace rankwise {
namespace {

MPI_Datatype mpi_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return MPI_FLOAT;
    case DType::kF64:
      return MPI_DOUBLE;
    case DType::kI32:
      return MPI_INT32_T;
    case DType::kI64:
      return MPI_INT64_T;
    default:
      break;
  }
  RW_ASSERT(false, "{}", name_of(dtype));
  return MPI_DATATYPE_NULL;
}

MPI_Op mpi_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return MPI_SUM;
    case ReduceOp::kMax:
      return MPI_MAX;
    case ReduceOp::kMin:
      return MPI_MIN;
  }
  RW_ASSERT(false, "operation {}", static_cast<int>(op));
  return MPI_OP_NULL;
}

// Calls part(first byte, count) for consecutive parts of at most `max_count` elements.
template <class Part>
void for_each_part(void* data, int64_t count, int64_t element_bytes, int64_t max_count,
                   const Part& part) {
  auto* bytes = static_cast<std::byte*>(data);
  for (int64_t begin = 0; begin < count; begin += max_count) {
    part(bytes + begin * element_bytes, static_cast<int>(std::min(max_count, count - begin)));
  }
}

class MpiPendingCollective : public PendingCollective {
 public:
  MpiPendingCollective(std::shared_ptr<Activity> activity, std::string operation, int rank)
      : activity_(std::move(activity)), operation_(std::move(operation)), rank_(rank) {}

  // For the next of the calls that the collective is made of.
  MPI_Request* add_request() {
    requests_.push_back(MPI_REQUEST_NULL);
    return &requests_.back();
  }

  void wait() override {
    const CollectiveRecord record(*activity_, operation_);
    check_mpi(MPI_Waitall(count(), requests_.data(), MPI_STATUSES_IGNORE), operation_, rank_);
  }

  void progress() override {
    int done = 0;
    check_mpi(MPI_Testall(count(), requests_.data(), &done, MPI_STATUSES_IGNORE), operation_,
              rank_);
  }

 private:
  int count() const { return static_cast<int>(requests_.size()); }

  std::shared_ptr<Activity> activity_;
  std::vector<MPI_Request> requests_;
  std::string operation_;
  int rank_;
};

}  // namespace

void check_mpi(int code, std::string_view operation, int rank) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) length = 0;
  throw CommunicationError(fmt::format("{}: {} (MPI error {}, rank {}, host {})", operation,
                                       std::string_view(text.data(), static_cast<size_t>(length)),
                                       code, rank, host_name()));
}

MpiCommunicator::MpiCommunicator(MPI_Comm comm, Ownership ownership, int64_t max_count,
                                 std::shared_ptr<Activity> activity)
    : Communicator(std::move(activity)), comm_(comm), ownership_(ownership), max_count_(max_count) {
  RW_ASSERT(max_count >= 1 && max_count <= kMaxCount, "{}", max_count);
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "set error handler", -1);
  check_mpi(MPI_Comm_rank(comm_, &rank_), "communicator rank", -1);
  check_mpi(MPI_Comm_size(comm_, &size_), "communicator size", rank_);
}

MpiCommunicator::~MpiCommunicator() {
  if (ownership_ == Ownership::kBorrowed) return;
  int finalized = 0;
  // A failure to free is of no consequence here, and a destructor has nobody to tell.
  if (MPI_Finalized(&finalized) == MPI_SUCCESS && finalized == 0) MPI_Comm_free(&comm_);
}

void MpiCommunicator::all_reduce(const Tensor& tensor, ReduceOp op, std::string_view operation,
                                 Stream& stream) {
  const CollectiveRecord record(activity(), operation);
  check_reducible(tensor, size_, operation);
  wire_bytes_ += reduce_wire_bytes(tensor, size_);
  if (stream.measuring() || size_ == 1) return;
  for_each_part(tensor.raw(), tensor.numel(), bits_of(tensor.dtype()) / 8, max_count_,
                [&](void* data, int count) {
                  check_mpi(MPI_Allreduce(MPI_IN_PLACE, data, count, mpi_type(tensor.dtype()),
                                          mpi_op(op), comm_),
                            operation, rank_);
                });
}

std::unique_ptr<PendingCollective> MpiCommunicator::start_all_reduce(const Tensor& tensor,
                                                                     ReduceOp op,
                                                                     std::string_view operation,
                                                                     Stream& stream) {
  const CollectiveRecord record(activity(), operation);
  check_reducible(tensor, size_, operation);
  wire_bytes_ += reduce_wire_bytes(tensor, size_);
  if (stream.measuring() || size_ == 1) return std::make_unique<FinishedCollective>();
  auto pending = std::make_unique<MpiPendingCollective>(activity_, std::string(operation), rank_);
  for_each_part(tensor.raw(), tensor.numel(), bits_of(tensor.dtype()) / 8, max_count_,
                [&](void* data, int count) {
                  check_mpi(MPI_Iallreduce(MPI_IN_PLACE, data, count, mpi_type(tensor.dtype()),
                                           mpi_op(op), comm_, pending->add_request()),
                            operation, rank_);
                });
  return pending;
}

void MpiCommunicator::broadcast(const Tensor& tensor, int root, std::string_view operation,
                                Stream& stream) {
  const CollectiveRecord record(activity(), operation);
  check_transferable(tensor, size_, operation);
  wire_bytes_ += broadcast_wire_bytes(tensor, size_);
  if (stream.measuring() || (size_ == 1 && root == 0)) return;
  broadcast_bytes(tensor.raw(), tensor.bytes(), root, operation);
}

void MpiCommunicator::broadcast_bytes(void* data, int64_t bytes, int root,
                                      std::string_view operation) {
  for_each_part(data, bytes, 1, max_count_, [&](void* part, int count) {
    check_mpi(MPI_Bcast(part, count, MPI_BYTE, root, comm_), operation, rank_);
  });
}

void MpiCommunicator::all_gather(const Tensor& out, const Tensor& in, std::string_view operation,
                                 Stream& stream) {
  const CollectiveRecord record(activity(), operation);
  check_gatherable(out, in, size_, operation);
  wire_bytes_ += gather_wire_bytes(in, size_);
  if (size_ == 1) return gather_alone(out, in, stream);
  if (stream.measuring()) return;
  const int64_t bytes = in.bytes();
  if (bytes <= max_count_) {
    const int count = static_cast<int>(bytes);
    check_mpi(MPI_Allgather(in.raw(), count, MPI_BYTE, out.raw(), count, MPI_BYTE, comm_),
              operation, rank_);
    return;
  }
  // Too large for one call, whose parts would not be contiguous: every rank sends its part in turn.
  std::byte* parts = place_own_part(out, in);
  for (int root = 0; root < size_; ++root) {
    broadcast_bytes(parts + root * bytes, bytes, root, operation);
  }
}

std::unique_ptr<PendingCollective> MpiCommunicator::start_all_gather(const Tensor& out,
                                                                     const Tensor& in,
                                                                     std::string_view operation,
                                                                     Stream& stream) {
  const CollectiveRecord record(activity(), operation);
  check_gatherable(out, in, size_, operation);
  wire_bytes_ += gather_wire_bytes(in, size_);
  if (size_ == 1) gather_alone(out, in, stream);
  if (stream.measuring() || size_ == 1) return std::make_unique<FinishedCollective>();
  auto pending = std::make_unique<MpiPendingCollective>(activity_, std::string(operation), rank_);
  const int64_t bytes = in.bytes();
  if (bytes <= max_count_) {
    const int count = static_cast<int>(bytes);
    check_mpi(MPI_Iallgather(in.raw(), count, MPI_BYTE, out.raw(), count, MPI_BYTE, comm_,
                             pending->add_request()),
              operation, rank_);
    return pending;
  }
  std::byte* parts = place_own_part(out, in);
  for (int root = 0; root < size_; ++root) {
    for_each_part(parts + root * bytes, bytes, 1, max_count_, [&](void* part, int count) {
      check_mpi(MPI_Ibcast(part, count, MPI_BYTE, root, comm_, pending->add_request()), operation,
                rank_);
    });
  }
  return pending;
}

std::byte* MpiCommunicator::place_own_part(const Tensor& out, const Tensor& in) const {
  auto* parts = static_cast<std::byte*>(out.raw());
  std::memcpy(parts + rank_ * in.bytes(), in.raw(), static_cast<size_t>(in.bytes()));
  return parts;
}

void MpiCommunicator::barrier(std::string_view operation) {
  const CollectiveRecord record(activity(), operation);
  check_mpi(MPI_Barrier(comm_), operation, rank_);
}

std::vector<std::string> MpiCommunicator::gather_text(const std::string& text,
                                                      std::string_view operation) {
  const CollectiveRecord record(activity(), operation);
  const int64_t length = static_cast<int64_t>(text.size());
  std::vector<int64_t> lengths(static_cast<size_t>(size_));
  check_mpi(MPI_Allgather(&length, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm_),
            operation, rank_);
  const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  RW_ASSERT(total <= kMaxCount, "{}: {} bytes of text", operation, total);
  std::vector<int> counts(lengths.begin(), lengths.end());
  std::vector<int> offsets(counts.size());
  std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), 0);
  std::string all(static_cast<size_t>(total), '\0');
  check_mpi(MPI_Allgatherv(text.data(), static_cast<int>(length), MPI_BYTE, all.data(),
                           counts.data(), offsets.data(), MPI_BYTE, comm_),
            operation, rank_);
  std::vector<std::string> texts;
  for (size_t r = 0; r < counts.size(); ++r) {
    texts.push_back(all.substr(static_cast<size_t>(offsets[r]), static_cast<size_t>(counts[r])));
  }
  return texts;
}

std::string MpiCommunicator::broadcast_text(const std::string& text, int root,
                                            std::string_view operation) {
  const CollectiveRecord record(activity(), operation);
  int64_t length = static_cast<int64_t>(text.size());
  broadcast_bytes(&length, sizeof(length), root, operation);
  std::string result = rank_ == root ? text : std::string(static_cast<size_t>(length), '\0');
  broadcast_bytes(result.data(), length, root, operation);
  return result;
}

std::unique_ptr<Communicator> MpiCommunicator::split(int color, int key, std::string_view name) {
  RW_ASSERT(color >= 0, "{}: color {}", name, color);
  const std::string operation = fmt::format("split off communicator '{}'", name);
  const CollectiveRecord record(activity(), operation);
  MPI_Comm part = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(comm_, color, key, &part), operation, rank_);
  auto result = std::make_unique<MpiCommunicator>(part, Ownership::kOwned, max_count_, activity_);
  check_mpi(MPI_Comm_set_name(part, std::string(name).c_str()), operation, rank_);
  return result;
}

void MpiCommunicator::abort(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);  // the whole job, also from a part of it
  std::_Exit(exit_code);
}

}  // namespace rankwise
