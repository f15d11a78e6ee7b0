// SPDX-License-Identifier: Apache-2.0
#include "parallel/nccl_communicator.h"

#include <fmt/ranges.h>
#include <nccl.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <future>
#include <thread>
#include <vector>

#include "parallel/collective.h"
#include "parallel/communication_stream.h"

namespace rankwise {
namespace {

constexpr std::chrono::seconds kConnectDeadline{120};
constexpr std::chrono::seconds kEndDeadline{10};

std::string_view error_name(ncclResult_t result) {
  constexpr std::string_view kNames[] = {
      "ncclSuccess",         "ncclUnhandledCudaError", "ncclSystemError", "ncclInternalError",
      "ncclInvalidArgument", "ncclInvalidUsage",       "ncclRemoteError", "ncclInProgress"};
  const auto index = static_cast<size_t>(result);
  return index < std::size(kNames) ? kNames[index] : "unknown error";
}

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ncclFloat32;
    case DType::kF64:
      return ncclFloat64;
    case DType::kI32:
      return ncclInt32;
    case DType::kI64:
      return ncclInt64;
    case DType::kBF16:
      return ncclBfloat16;
    default:
      break;
  }
  RW_ASSERT(false, "{}", name_of(dtype));
  return ncclUint8;
}

ncclRedOp_t nccl_op(ReduceOp op) {
  if (op == ReduceOp::kSum) return ncclSum;
  return op == ReduceOp::kMax ? ncclMax : ncclMin;
}

cudaStream_t native(const Stream& stream) { return static_cast<cudaStream_t>(stream.native()); }

// Runs `call` on a thread of its own and waits for it so long: NCCL's calls that meet other ranks
// can hang when one is gone. Whether it has ended; what `call` holds lives as long as it runs.
template <class Call>
bool ends_within(std::chrono::seconds deadline, Call call) {
  std::packaged_task<void()> task(std::move(call));
  std::future<void> ended = task.get_future();
  std::thread(std::move(task)).detach();
  return ended.wait_for(deadline) == std::future_status::ready;
}

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, Device device,
                   std::shared_ptr<CommunicationStream> communication, int most_blocks);
  ~NcclCommunicator() override;

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

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
  void barrier(std::string_view operation) override { host_->barrier(operation); }
  std::vector<std::string> gather_text(const std::string& text,
                                       std::string_view operation) override {
    return host_->gather_text(text, operation);
  }
  std::string broadcast_text(const std::string& text, int root,
                             std::string_view operation) override {
    return host_->broadcast_text(text, root, operation);
  }
  std::unique_ptr<Communicator> split(int color, int key, std::string_view name) override;
  void abort(int exit_code) override { host_->abort(exit_code); }

 private:
  void connect();
  void check(ncclResult_t result, std::string_view operation) const;
  [[noreturn]] void fail(std::string_view operation, const std::string& reason) const;
  // In the record of what the rank does: puts one call of NCCL into `stream`.
  template <class Call>
  void enqueue(std::string_view operation, Stream& stream, const Call& call);
  template <class Call>
  std::unique_ptr<PendingCollective> start(std::string_view operation, Stream& stream,
                                           const Call& call);
  // The calls, to enqueue or to start.
  auto reduction(const Tensor& tensor, ReduceOp op);
  auto gathering(const Tensor& out, const Tensor& in);

  std::unique_ptr<Communicator> host_;
  Device device_;
  std::shared_ptr<CommunicationStream> communication_;
  int most_blocks_;
  ncclComm_t comm_ = nullptr;
  int exceptions_before_ = std::uncaught_exceptions();
};

NcclCommunicator::NcclCommunicator(std::unique_ptr<Communicator> host, Device device,
                                   std::shared_ptr<CommunicationStream> communication,
                                   int most_blocks)
    : Communicator(host->shared_activity()),
      host_(std::move(host)),
      device_(device),
      communication_(std::move(communication)),
      most_blocks_(most_blocks) {
  connect();
}

// A blocking communicator: one that does not block starts a thread for each collective. Only its
// making, which waits for the other ranks, is given a thread and a deadline here.
void NcclCommunicator::connect() {
  constexpr std::string_view kOperation = "connect the GPUs by NCCL";
  const std::vector<std::string> places =
      host_->gather_text(fmt::format("{} {}", host_name(), to_string(device_)), kOperation);
  ncclUniqueId id{};
  if (rank() == 0) check(ncclGetUniqueId(&id), kOperation);
  const std::string text =
      host_->broadcast_text(std::string(id.internal, sizeof(id.internal)), 0, kOperation);
  RW_ASSERT(text.size() == sizeof(id.internal), "{} bytes", text.size());
  std::memcpy(id.internal, text.data(), text.size());

  struct Outcome {
    ncclComm_t comm = nullptr;
    ncclResult_t result = ncclSuccess;
    std::exception_ptr error;
  };
  const auto outcome = std::make_shared<Outcome>();
  const CollectiveRecord record(activity(), kOperation);
  const auto call = [outcome, id, device = device_, size = size(), rank = rank(),
                     most_blocks = most_blocks_] {
    try {
      select_device(device);
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      if (most_blocks > 0) config.maxCTAs = most_blocks;
      outcome->result = ncclCommInitRankConfig(&outcome->comm, size, id, rank, &config);
    } catch (...) {
      outcome->error = std::current_exception();
    }
  };
  if (!ends_within(kConnectDeadline, call)) {
    fail(kOperation, fmt::format("not done after {} s; the ranks are {}", kConnectDeadline.count(),
                                 fmt::join(places, ", ")));
  }
  if (outcome->error != nullptr) std::rethrow_exception(outcome->error);
  check(outcome->result, fmt::format("{} ({})", kOperation, fmt::join(places, ", ")));
  comm_ = outcome->comm;
}

// All ranks that are well come here in the same order. After a failure others may be gone, and what
// is in the streams would wait for them for ever: it is given up.
NcclCommunicator::~NcclCommunicator() {
  if (comm_ == nullptr) return;
  ncclResult_t state = ncclSuccess;
  const bool well = std::uncaught_exceptions() <= exceptions_before_ &&
                    ncclCommGetAsyncError(comm_, &state) == ncclSuccess && state == ncclSuccess;
  // If the call hangs, it keeps the stream, whose end would hang too.
  ends_within(kEndDeadline, [comm = comm_, well, communication = communication_]() mutable {
    static_cast<void>(well ? ncclCommDestroy(comm) : ncclCommAbort(comm));
    communication.reset();  // not after this thread's end was awaited: the program may exit then
  });
}

void NcclCommunicator::fail(std::string_view operation, const std::string& reason) const {
  throw CommunicationError(fmt::format("{}: {} (rank {}, host {}, {})", operation, reason, rank(),
                                       host_name(), to_string(device_)));
}

void NcclCommunicator::check(ncclResult_t result, std::string_view operation) const {
  if (result == ncclSuccess && comm_ != nullptr) {
    const ncclResult_t asked = ncclCommGetAsyncError(comm_, &result);
    if (asked != ncclSuccess) result = asked;
  }
  if (result == ncclSuccess) return;
  const char* detail = ncclGetLastError(comm_);
  std::string reason = fmt::format("{} ({})", ncclGetErrorString(result), error_name(result));
  if (detail != nullptr && *detail != '\0') reason += fmt::format(": {}", detail);
  fail(operation, reason.substr(0, reason.find('\n')));
}

template <class Call>
void NcclCommunicator::enqueue(std::string_view operation, Stream& stream, const Call& call) {
  const CollectiveRecord record(activity(), operation);
  check(call(native(stream)), operation);
}

template <class Call>
std::unique_ptr<PendingCollective> NcclCommunicator::start(std::string_view operation,
                                                           Stream& stream, const Call& call) {
  enqueue(operation, communication_->after(stream), call);
  return std::make_unique<StreamPendingCollective>(communication_, stream);
}

auto NcclCommunicator::reduction(const Tensor& tensor, ReduceOp op) {
  return [this, tensor, op](cudaStream_t stream) {
    return ncclAllReduce(tensor.raw(), tensor.raw(), static_cast<size_t>(tensor.numel()),
                         nccl_type(tensor.dtype()), nccl_op(op), comm_, stream);
  };
}

auto NcclCommunicator::gathering(const Tensor& out, const Tensor& in) {
  return [this, out, in](cudaStream_t stream) {
    return ncclAllGather(in.raw(), out.raw(), static_cast<size_t>(in.bytes()), ncclUint8, comm_,
                         stream);
  };
}

void NcclCommunicator::all_reduce(const Tensor& tensor, ReduceOp op, std::string_view operation,
                                  Stream& stream) {
  wire_bytes_ += reduce_wire_bytes(tensor, size());
  if (!tensor.device().is_cuda()) return host_->all_reduce(tensor, op, operation, stream);
  check_reducible(tensor, size(), operation, device_);
  if (!stream.measuring()) enqueue(operation, stream, reduction(tensor, op));
}

std::unique_ptr<PendingCollective> NcclCommunicator::start_all_reduce(const Tensor& tensor,
                                                                      ReduceOp op,
                                                                      std::string_view operation,
                                                                      Stream& stream) {
  wire_bytes_ += reduce_wire_bytes(tensor, size());
  if (!tensor.device().is_cuda()) return host_->start_all_reduce(tensor, op, operation, stream);
  check_reducible(tensor, size(), operation, device_);
  if (stream.measuring()) return std::make_unique<FinishedCollective>();
  return start(operation, stream, reduction(tensor, op));
}

void NcclCommunicator::broadcast(const Tensor& tensor, int root, std::string_view operation,
                                 Stream& stream) {
  wire_bytes_ += broadcast_wire_bytes(tensor, size());
  if (!tensor.device().is_cuda()) return host_->broadcast(tensor, root, operation, stream);
  check_transferable(tensor, size(), operation, device_);
  if (stream.measuring()) return;
  enqueue(operation, stream, [&](cudaStream_t native_stream) {
    return ncclBroadcast(tensor.raw(), tensor.raw(), static_cast<size_t>(tensor.bytes()), ncclUint8,
                         root, comm_, native_stream);
  });
}

void NcclCommunicator::all_gather(const Tensor& out, const Tensor& in, std::string_view operation,
                                  Stream& stream) {
  wire_bytes_ += gather_wire_bytes(in, size());
  if (!in.device().is_cuda()) return host_->all_gather(out, in, operation, stream);
  check_gatherable(out, in, size(), operation, device_);
  if (!stream.measuring()) enqueue(operation, stream, gathering(out, in));
}

std::unique_ptr<PendingCollective> NcclCommunicator::start_all_gather(const Tensor& out,
                                                                      const Tensor& in,
                                                                      std::string_view operation,
                                                                      Stream& stream) {
  wire_bytes_ += gather_wire_bytes(in, size());
  if (!in.device().is_cuda()) return host_->start_all_gather(out, in, operation, stream);
  check_gatherable(out, in, size(), operation, device_);
  if (stream.measuring()) return std::make_unique<FinishedCollective>();
  return start(operation, stream, gathering(out, in));
}

std::unique_ptr<Communicator> NcclCommunicator::split(int color, int key, std::string_view name) {
  std::unique_ptr<Communicator> part = host_->split(color, key, name);
  if (part->size() == 1) return part;
  return std::make_unique<NcclCommunicator>(std::move(part), device_, communication_, most_blocks_);
}

}  // namespace

NcclConnector::NcclConnector(Device device)
    : device_(device), communication_(std::make_shared<CommunicationStream>(device)) {}

std::unique_ptr<Communicator> NcclConnector::connect(std::unique_ptr<Communicator> host,
                                                     int most_blocks) const {
  if (host->size() == 1) return host;
  return std::make_unique<NcclCommunicator>(std::move(host), device_, communication_, most_blocks);
}

}  // namespace rankwise
