// SPDX-License-Identifier: Apache-2.0
// What every Communicator must do, written once and run alone, over threads and over MPI.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "parallel/communicator.h"

namespace rankwise::testing {

template <class T>
Tensor view_of(std::vector<T>& values) {
  return Tensor(values.data(), dtype_of<T>(), {static_cast<int64_t>(values.size())});
}

// 0 + 1 + ... + (size - 1).
inline int64_t rank_sum(const Communicator& c) { return int64_t{c.size()} * (c.size() - 1) / 2; }

template <class T>
void expect_reductions_are_exact(Communicator& c) {
  Stream stream;
  constexpr int64_t kCount = 1003;  // no multiple of any rank count used
  const auto filled = [&](int64_t step) {
    std::vector<T> values(kCount);
    for (int64_t i = 0; i < kCount; ++i) {
      values[static_cast<size_t>(i)] = static_cast<T>(i * step + c.rank());
    }
    return values;
  };
  std::vector<T> sum = filled(1);
  c.all_reduce(view_of(sum), ReduceOp::kSum, "sum", stream);
  std::vector<T> largest = filled(-1);
  c.all_reduce(view_of(largest), ReduceOp::kMax, "max", stream);
  std::vector<T> smallest = filled(2);
  c.all_reduce(view_of(smallest), ReduceOp::kMin, "min", stream);
  for (int64_t i = 0; i < kCount; ++i) {
    const auto at = static_cast<size_t>(i);
    ASSERT_EQ(sum[at], static_cast<T>(i * c.size() + rank_sum(c)));
    ASSERT_EQ(largest[at], static_cast<T>(-i + c.size() - 1));
    ASSERT_EQ(smallest[at], static_cast<T>(2 * i));
  }
}

// Values whose float sum depends on the order: ranks must still hold the same bits.
inline void expect_sums_are_bit_identical_on_all_ranks(Communicator& c) {
  Stream stream;
  std::vector<float> values(257);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = 1.0f / static_cast<float>(1 + i * 7 + static_cast<size_t>(c.rank()) * 13);
  }
  c.all_reduce(view_of(values), ReduceOp::kSum, "inexact sum", stream);
  std::vector<float> all(values.size() * static_cast<size_t>(c.size()));
  const Tensor out = view_of(all).reshaped({c.size(), static_cast<int64_t>(values.size())});
  c.all_gather(out, view_of(values), "compare", stream);
  for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], values[i % values.size()]);
}

inline void expect_pending_reductions_finish_in_any_order(Communicator& c) {
  Stream stream;
  std::vector<float> first(100, static_cast<float>(c.rank()));
  std::vector<float> second(100, 2.0f);
  auto pending_first = c.start_all_reduce(view_of(first), ReduceOp::kSum, "first", stream);
  auto pending_second = c.start_all_reduce(view_of(second), ReduceOp::kSum, "second", stream);
  pending_first->progress();
  pending_second->wait();
  pending_first->wait();
  EXPECT_EQ(first, std::vector<float>(100, static_cast<float>(rank_sum(c))));
  EXPECT_EQ(second, std::vector<float>(100, static_cast<float>(2 * c.size())));
}

// (of two sizes, so that one is in several parts where the test lowers the size of a call)
inline void expect_pending_gathers_finish_in_any_order(Communicator& c) {
  Stream stream;
  const auto ranks = static_cast<size_t>(c.size());
  std::vector<int32_t> one{c.rank()};
  std::vector<int32_t> many(100, 10 + c.rank());
  std::vector<int32_t> ones(ranks);
  std::vector<int32_t> all(100 * ranks);
  const Tensor all_view = view_of(all).reshaped({c.size(), 100});
  auto pending_ones =
      c.start_all_gather(view_of(ones).reshaped({c.size(), 1}), view_of(one), "ones", stream);
  auto pending_all = c.start_all_gather(all_view, view_of(many), "all", stream);
  pending_all->progress();
  pending_all->wait();
  pending_ones->wait();
  for (size_t r = 0; r < ranks; ++r) {
    EXPECT_EQ(ones[r], static_cast<int32_t>(r));
    for (size_t i = 0; i < 100; ++i) ASSERT_EQ(all[100 * r + i], 10 + static_cast<int32_t>(r));
  }
}

// Counted in measuring mode too, so that nothing needs to be moved here.
inline void expect_bytes_on_the_wire_are_counted(Communicator& c) {
  Stream measuring({}, Stream::Mode::kMeasure);
  const int n = c.size();
  const Tensor tensor(nullptr, DType::kF32, {12});  // 48 bytes
  const Tensor all(nullptr, DType::kF32, {n, 12});
  const std::unique_ptr<Communicator> counted = c.split(0, c.rank(), "counted");
  counted->all_reduce(tensor, ReduceOp::kSum, "reduce", measuring);
  counted->start_all_reduce(tensor, ReduceOp::kSum, "reduce", measuring)->wait();
  EXPECT_EQ(counted->wire_bytes(), 2 * (2 * (n - 1) * 48 / n));
  counted->all_gather(all, tensor, "gather", measuring);
  counted->start_all_gather(all, tensor, "gather", measuring)->wait();
  counted->broadcast(tensor, 0, "broadcast", measuring);
  EXPECT_EQ(counted->wire_bytes(),
            2 * (2 * (n - 1) * 48 / n) + 2 * (n - 1) * 48 + (n - 1) * 48 / n);
}

// One record for a communicator and what was split from it.
inline void expect_collectives_are_recorded(Communicator& c) {
  std::vector<std::string> seen;
  const std::unique_ptr<Communicator> part = c.split(0, c.rank(), "recorded");
  c.activity().set_observer([&](std::string_view operation) { seen.emplace_back(operation); });
  Stream stream;
  std::vector<float> values(3);
  const uint64_t before = c.activity().status().collectives;
  part->all_reduce(view_of(values), ReduceOp::kSum, "bucket 3", stream);
  c.barrier("end of step");
  c.activity().set_observer({});
  EXPECT_EQ(seen, (std::vector<std::string>{"bucket 3", "end of step"}));
  EXPECT_EQ(c.activity().status().collectives, before + 2);
  EXPECT_EQ(c.activity().status().operation, "end of step");
  EXPECT_FALSE(c.activity().status().in_collective);
}

inline void expect_broadcast_copies_the_root(Communicator& c) {
  Stream stream;
  for (int root = 0; root < c.size(); ++root) {
    std::vector<int32_t> values(7, c.rank() * 10);
    c.broadcast(view_of(values), root, "broadcast", stream);
    EXPECT_EQ(values, std::vector<int32_t>(7, root * 10));
    const std::string text = c.rank() == root ? "from " + std::to_string(root) : "overwritten";
    EXPECT_EQ(c.broadcast_text(text, root, "text"), "from " + std::to_string(root));
  }
}

inline void expect_gather_orders_by_rank(Communicator& c) {
  Stream stream;
  std::vector<int64_t> mine{c.rank(), -c.rank()};
  std::vector<int64_t> all(2 * static_cast<size_t>(c.size()));
  c.all_gather(view_of(all).reshaped({c.size(), 2}), view_of(mine), "gather", stream);
  const std::vector<std::string> texts =
      c.gather_text(std::string(static_cast<size_t>(c.rank()), 'x'), "texts");  // rank 0: empty
  ASSERT_EQ(texts.size(), static_cast<size_t>(c.size()));
  for (int r = 0; r < c.size(); ++r) {
    const auto at = static_cast<size_t>(r);
    EXPECT_EQ(all[2 * at], r);
    EXPECT_EQ(all[2 * at + 1], -r);
    EXPECT_EQ(texts[at], std::string(at, 'x'));
  }
}

// Even and odd ranks apart, in reverse order; both halves work at the same time.
inline void expect_split_orders_by_key(Communicator& c) {
  Stream stream;
  const std::unique_ptr<Communicator> part = c.split(c.rank() % 2, -c.rank(), "parity");
  EXPECT_EQ(part->size(), (c.size() + 1 - c.rank() % 2) / 2);
  const std::vector<std::string> members =
      part->gather_text(std::to_string(c.rank()), "members of the part");
  for (size_t i = 1; i < members.size(); ++i) {
    EXPECT_EQ(std::stoi(members[i - 1]), std::stoi(members[i]) + 2);
  }
  EXPECT_EQ(members[static_cast<size_t>(part->rank())], std::to_string(c.rank()));
  part->barrier("part");
}

inline void expect_measuring_touches_nothing(Communicator& c) {
  Stream measuring({}, Stream::Mode::kMeasure);
  const Tensor nothing(nullptr, DType::kF32, {1 << 20});
  const Tensor all(nullptr, DType::kF32, {c.size(), 1 << 20});
  c.all_reduce(nothing, ReduceOp::kSum, "measured", measuring);
  c.start_all_reduce(nothing, ReduceOp::kSum, "measured", measuring)->wait();
  c.broadcast(nothing, 0, "measured", measuring);
  c.all_gather(all, nothing, "measured", measuring);
  c.start_all_gather(all, nothing, "measured", measuring)->wait();
}

// The null address would fault if anything were read or written.
inline void expect_one_rank_takes_tensors_of_a_gpu(Communicator& c) {
  Stream stream;
  const std::unique_ptr<Communicator> alone = c.split(c.rank(), 0, "alone");
  ASSERT_EQ(alone->size(), 1);
  const Tensor there(nullptr, DType::kF32, {1 << 10}, {DeviceKind::kCuda, 0});
  alone->all_reduce(there, ReduceOp::kSum, "gpu", stream);
  alone->start_all_reduce(there, ReduceOp::kSum, "gpu", stream)->wait();
  alone->broadcast(there, 0, "gpu", stream);
}

inline void expect_unknown_root_is_an_error_naming_the_operation(Communicator& c) {
  Stream stream;
  std::vector<float> values(1);
  try {
    c.broadcast(view_of(values), c.size(), "send the seeds", stream);
    FAIL() << "no error";
  } catch (const CommunicationError& error) {
    EXPECT_EQ(std::string(error.what()).rfind("send the seeds: ", 0), 0u) << error.what();
  }
}

inline void expect_communicator_contract(Communicator& c) {
  expect_one_rank_takes_tensors_of_a_gpu(c);
  expect_reductions_are_exact<float>(c);
  expect_reductions_are_exact<double>(c);
  expect_reductions_are_exact<int32_t>(c);
  expect_reductions_are_exact<int64_t>(c);
  expect_sums_are_bit_identical_on_all_ranks(c);
  expect_pending_reductions_finish_in_any_order(c);
  expect_pending_gathers_finish_in_any_order(c);
  expect_bytes_on_the_wire_are_counted(c);
  expect_collectives_are_recorded(c);
  expect_broadcast_copies_the_root(c);
  expect_gather_orders_by_rank(c);
  expect_split_orders_by_key(c);
  expect_measuring_touches_nothing(c);
  const std::vector<double> numbers =
      all_reduce_numbers(c, {1.0, 0.5 * c.rank()}, ReduceOp::kSum, "numbers");
  EXPECT_EQ(numbers[0], c.size());
  EXPECT_EQ(numbers[1], 0.5 * static_cast<double>(rank_sum(c)));
  c.barrier("end of contract");
}

}  // namespace rankwise::testing
