// SPDX-License-Identifier: Apache-2.0
#include "tests/support/thread_ranks.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

#include "parallel/collective.h"

namespace rankwise {
namespace {

// State of one run_ranks_as_threads call, shared by all communicators split from it: one mutex and
// one condition for everything, so that a failure reaches a rank wherever it waits.
struct ThreadJob {
  explicit ThreadJob(int size) : left(static_cast<size_t>(size), false) {}

  std::mutex mutex;
  std::condition_variable changed;
  std::exception_ptr first_error;
  int failed_rank = -1;    // world rank of first_error
  std::vector<bool> left;  // by world rank: its body has returned or thrown
};

struct ThreadGroup;

// What a rank shows the others during a collective.
struct Contribution {
  std::string operation{};
  Tensor tensor{};
  std::string text{};
  int color = 0;
  int key = 0;
  std::shared_ptr<ThreadGroup> part{};
};

struct ThreadGroup {
  ThreadGroup(std::shared_ptr<ThreadJob> shared_job, std::vector<int> members)
      : job(std::move(shared_job)), world_ranks(std::move(members)), slots(world_ranks.size()) {}

  int size() const { return static_cast<int>(world_ranks.size()); }

  std::shared_ptr<ThreadJob> job;
  std::vector<int> world_ranks;
  std::vector<Contribution> slots;  // slot r is written by rank r only, between two barriers
  int arrived = 0;
  uint64_t generation = 0;
};

template <class T>
T combine(T a, T b, ReduceOp op) {
  if (op == ReduceOp::kSum) return a + b;
  return op == ReduceOp::kMax ? std::max(a, b) : std::min(a, b);
}

// Reduces elements [begin, end) of all ranks' tensors in rank order and writes all of them.
template <class T>
void reduce_range(const std::vector<Contribution>& slots, int64_t begin, int64_t end, ReduceOp op) {
  for (int64_t i = begin; i < end; ++i) {
    T value = slots[0].tensor.data<T>()[i];
    for (size_t r = 1; r < slots.size(); ++r) {
      value = combine(value, slots[r].tensor.data<T>()[i], op);
    }
    for (const Contribution& slot : slots) slot.tensor.data<T>()[i] = value;
  }
}

class ThreadCommunicator : public ImmediateCommunicator {
 public:
  ThreadCommunicator(std::shared_ptr<Activity> activity, std::shared_ptr<ThreadGroup> group,
                     int rank)
      : ImmediateCommunicator(std::move(activity)), group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  void all_reduce(const Tensor& tensor, ReduceOp op, std::string_view operation,
                  Stream& stream) override;
  void broadcast(const Tensor& tensor, int root, std::string_view operation,
                 Stream& stream) override;
  void all_gather(const Tensor& out, const Tensor& in, std::string_view operation,
                  Stream& stream) override;
  void barrier(std::string_view operation) override {
    const CollectiveRecord record(activity(), operation);
    exchange({}, operation);
    wait_for_all(operation);
  }
  std::vector<std::string> gather_text(const std::string& text,
                                       std::string_view operation) override;
  std::string broadcast_text(const std::string& text, int root,
                             std::string_view operation) override;
  std::unique_ptr<Communicator> split(int color, int key, std::string_view name) override;

  void abort(int exit_code) override { end_process(exit_code); }

 private:
  // Shows this rank's contribution and waits until all ranks have shown theirs; they may be read
  // until the closing wait_for_all of the same collective.
  const std::vector<Contribution>& exchange(Contribution mine, std::string_view operation);
  // The same for tensors, which must agree in type and size.
  const std::vector<Contribution>& exchange_tensors(const Tensor& mine, std::string_view operation);
  void wait_for_all(std::string_view operation);
  [[noreturn]] void fail(std::string_view operation, const std::string& reason) const;
  void check_root(int root, std::string_view operation) const {
    if (root < 0 || root >= size()) fail(operation, fmt::format("no rank {} of {}", root, size()));
  }

  std::shared_ptr<ThreadGroup> group_;
  int rank_;
};

void ThreadCommunicator::fail(std::string_view operation, const std::string& reason) const {
  throw CommunicationError(
      fmt::format("{}: {} (rank {}, host {})", operation, reason, rank_, host_name()));
}

void ThreadCommunicator::wait_for_all(std::string_view operation) {
  ThreadJob& job = *group_->job;
  std::unique_lock lock(job.mutex);
  const uint64_t mine = group_->generation;
  if (++group_->arrived == size()) {
    group_->arrived = 0;
    ++group_->generation;
    job.changed.notify_all();
    return;
  }
  int missing = -1;
  job.changed.wait(lock, [&] {
    if (group_->generation != mine) return true;
    for (int member : group_->world_ranks) {
      if (job.left[static_cast<size_t>(member)]) missing = member;
    }
    return missing >= 0 || job.first_error != nullptr;
  });
  if (group_->generation != mine) return;
  if (job.first_error != nullptr) fail(operation, fmt::format("rank {} failed", job.failed_rank));
  fail(operation, fmt::format("rank {} has left", missing));
}

const std::vector<Contribution>& ThreadCommunicator::exchange(Contribution mine,
                                                              std::string_view operation) {
  mine.operation = operation;
  group_->slots[static_cast<size_t>(rank_)] = std::move(mine);
  wait_for_all(operation);
  for (const Contribution& other : group_->slots) {
    if (other.operation != operation) {
      fail(operation, fmt::format("another rank is at '{}'", other.operation));
    }
  }
  return group_->slots;
}

const std::vector<Contribution>& ThreadCommunicator::exchange_tensors(const Tensor& mine,
                                                                      std::string_view operation) {
  const auto& slots = exchange({.tensor = mine}, operation);
  for (const Contribution& other : slots) {
    // A difference is seen by every rank, so none goes on to touch the memory of one that unwinds.
    if (other.tensor.dtype() != mine.dtype() || other.tensor.numel() != mine.numel()) {
      fail(operation, "tensors of the ranks differ in type or size");
    }
  }
  return slots;
}

void ThreadCommunicator::all_reduce(const Tensor& tensor, ReduceOp op, std::string_view operation,
                                    Stream& stream) {
  const CollectiveRecord record(activity(), operation);
  check_reducible(tensor, size(), operation);
  wire_bytes_ += reduce_wire_bytes(tensor, size());
  if (stream.measuring() || size() == 1) return;
  const auto& slots = exchange_tensors(tensor, operation);
  // Every rank reduces its own range for all, so nothing is written while another rank reads it.
  const int64_t begin = tensor.numel() * rank_ / size();
  const int64_t end = tensor.numel() * (rank_ + 1) / size();
  switch (tensor.dtype()) {
    case DType::kF32:
      reduce_range<float>(slots, begin, end, op);
      break;
    case DType::kF64:
      reduce_range<double>(slots, begin, end, op);
      break;
    case DType::kI32:
      reduce_range<int32_t>(slots, begin, end, op);
      break;
    default:
      reduce_range<int64_t>(slots, begin, end, op);
      break;
  }
  wait_for_all(operation);
}

void ThreadCommunicator::broadcast(const Tensor& tensor, int root, std::string_view operation,
                                   Stream& stream) {
  const CollectiveRecord record(activity(), operation);
  check_transferable(tensor, size(), operation);
  wire_bytes_ += broadcast_wire_bytes(tensor, size());
  check_root(root, operation);
  if (stream.measuring() || size() == 1) return;
  const Tensor& source = exchange_tensors(tensor, operation)[static_cast<size_t>(root)].tensor;
  if (rank_ != root && tensor.bytes() > 0) {
    std::memcpy(tensor.raw(), source.raw(), static_cast<size_t>(tensor.bytes()));
  }
  wait_for_all(operation);
}

void ThreadCommunicator::all_gather(const Tensor& out, const Tensor& in, std::string_view operation,
                                    Stream& stream) {
  const CollectiveRecord record(activity(), operation);
  check_gatherable(out, in, size(), operation);
  wire_bytes_ += gather_wire_bytes(in, size());
  if (size() == 1) return gather_alone(out, in, stream);
  if (stream.measuring()) return;
  auto* to = static_cast<std::byte*>(out.raw());
  for (const Contribution& other : exchange_tensors(in, operation)) {
    if (in.bytes() > 0) {
      std::memcpy(to, other.tensor.raw(), static_cast<size_t>(in.bytes()));
    }
    to += in.bytes();
  }
  wait_for_all(operation);
}

std::vector<std::string> ThreadCommunicator::gather_text(const std::string& text,
                                                         std::string_view operation) {
  const CollectiveRecord record(activity(), operation);
  std::vector<std::string> texts;
  for (const Contribution& other : exchange({.text = text}, operation)) {
    texts.push_back(other.text);
  }
  wait_for_all(operation);
  return texts;
}

std::string ThreadCommunicator::broadcast_text(const std::string& text, int root,
                                               std::string_view operation) {
  check_root(root, operation);
  return gather_text(text, operation)[static_cast<size_t>(root)];
}

std::unique_ptr<Communicator> ThreadCommunicator::split(int color, int key, std::string_view name) {
  RW_ASSERT(color >= 0, "{}: color {}", name, color);
  const std::string operation = fmt::format("split off communicator '{}'", name);
  const CollectiveRecord record(activity(), operation);
  const auto& slots = exchange({.color = color, .key = key}, operation);
  std::vector<int> members;
  for (int r = 0; r < size(); ++r) {
    if (slots[static_cast<size_t>(r)].color == color) members.push_back(r);
  }
  std::stable_sort(members.begin(), members.end(), [&](int a, int b) {
    return slots[static_cast<size_t>(a)].key < slots[static_cast<size_t>(b)].key;
  });
  const auto first = static_cast<size_t>(members.front());
  if (members.front() == rank_) {
    std::vector<int> world_ranks;
    for (int r : members) world_ranks.push_back(group_->world_ranks[static_cast<size_t>(r)]);
    group_->slots[first].part = std::make_shared<ThreadGroup>(group_->job, world_ranks);
  }
  wait_for_all(operation);
  std::shared_ptr<ThreadGroup> part = group_->slots[first].part;
  wait_for_all(operation);
  const auto place = std::find(members.begin(), members.end(), rank_) - members.begin();
  return std::make_unique<ThreadCommunicator>(activity_, std::move(part), static_cast<int>(place));
}

}  // namespace

void run_ranks_as_threads(int size, const std::function<void(Communicator&)>& body) {
  RW_ASSERT(size >= 1, "{}", size);
  auto job = std::make_shared<ThreadJob>(size);
  std::vector<int> world_ranks(static_cast<size_t>(size));
  std::iota(world_ranks.begin(), world_ranks.end(), 0);
  auto world = std::make_shared<ThreadGroup>(job, world_ranks);
  const auto run_rank = [&](int rank) {
    std::exception_ptr error;
    try {
      ThreadCommunicator communicator(std::make_shared<Activity>(), world, rank);
      body(communicator);
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard lock(job->mutex);
    job->left[static_cast<size_t>(rank)] = true;
    if (error != nullptr && job->first_error == nullptr) {
      job->first_error = error;
      job->failed_rank = rank;
    }
    job->changed.notify_all();
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) threads.emplace_back(run_rank, rank);
  for (std::thread& thread : threads) thread.join();
  if (job->first_error != nullptr) std::rethrow_exception(job->first_error);
}

}  // namespace rankwise
