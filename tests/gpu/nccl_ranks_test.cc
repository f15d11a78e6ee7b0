// SPDX-License-Identifier: Apache-2.0
// Runs under mpirun with 2 ranks, each with its own GPU.
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/elementwise.h"
#include "parallel/device_mesh.h"
#include "parallel/nccl_communicator.h"
#include "runtime/arena.h"
#include "runtime/transfer.h"
#include "tests/parallel/communicator_contract.h"
#include "tests/support/test_world.h"

namespace rankwise {
namespace {

class NcclCommunicator : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!kHasNccl) GTEST_SKIP() << "no NCCL in this build";
    if (world().size() != 2) GTEST_SKIP() << "needs mpirun -np 2";
    if (gpu_count() < 2) GTEST_SKIP() << "needs two GPUs, finds " << gpu_count();
    device_ = {DeviceKind::kCuda, world().rank()};
    select_device(device_);
    stream_ = std::make_unique<Stream>(device_);
    arena_ = std::make_unique<Arena>(device_);
    mesh_ = std::make_unique<DeviceMesh>(world(), 1, device_);
  }

  static Communicator& world() { return testing::world(); }
  Communicator& ranks() { return mesh_->world(); }
  Stream& stream() { return *stream_; }
  int rank() const { return world().rank(); }

  template <class T>
  Tensor on_gpu(const std::vector<T>& values, DType dtype = dtype_of<T>()) {
    const Tensor out = arena_->allocate("test", dtype, {static_cast<int64_t>(values.size())});
    upload(out, values.data(), stream());
    return out;
  }
  Tensor filled(int64_t count, float value) {
    const Tensor out = arena_->allocate("test", DType::kF32, {count});
    fill(out, value, stream());
    return out;
  }
  template <class T>
  std::vector<T> values_of(const Tensor& tensor) {
    std::vector<T> values(static_cast<size_t>(tensor.numel()));
    download(values.data(), tensor, stream());
    return values;
  }
  template <class T>
  std::vector<T> reduced(std::vector<T> values, ReduceOp op) {
    const Tensor tensor = on_gpu(values);
    ranks().all_reduce(tensor, op, "reduce", stream());
    return values_of<T>(tensor);
  }

  template <class T>
  void expect_exact_reductions() {
    constexpr int64_t kCount = 100'003;
    std::vector<T> mine(kCount), sum(kCount), largest(kCount), smallest(kCount);
    for (int64_t i = 0; i < kCount; ++i) {
      const int64_t of_rank[2] = {i % 1000, 500 - i % 777};
      const auto at = static_cast<size_t>(i);
      mine[at] = static_cast<T>(of_rank[rank()]);
      sum[at] = static_cast<T>(of_rank[0] + of_rank[1]);
      largest[at] = static_cast<T>(std::max(of_rank[0], of_rank[1]));
      smallest[at] = static_cast<T>(std::min(of_rank[0], of_rank[1]));
    }
    EXPECT_EQ(reduced(mine, ReduceOp::kSum), sum);
    EXPECT_EQ(reduced(mine, ReduceOp::kMax), largest);
    EXPECT_EQ(reduced(mine, ReduceOp::kMin), smallest);
  }

  Device device_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<DeviceMesh> mesh_;
};

TEST_F(NcclCommunicator, KeepsTheContractForHostTensors) {
  testing::expect_communicator_contract(ranks());
}

TEST_F(NcclCommunicator, ReductionsAreExact) {
  expect_exact_reductions<float>();
  expect_exact_reductions<double>();
  expect_exact_reductions<int32_t>();
  expect_exact_reductions<int64_t>();
}

TEST_F(NcclCommunicator, SumsOfBf16AreRoundedOnce) {
  std::vector<uint16_t> mine(10'001), sum(mine.size());
  for (size_t i = 0; i < mine.size(); ++i) {
    float total = 0.0f;
    for (int r = 0; r < 2; ++r) {
      const uint16_t summand = bf16_from_float(1.0f / static_cast<float>(1 + i * 3 + 7 * r));
      if (r == rank()) mine[i] = summand;
      total += float_from_bf16(summand);
    }
    sum[i] = bf16_from_float(total);
  }
  const Tensor tensor = on_gpu(mine, DType::kBF16);
  ranks().all_reduce(tensor, ReduceOp::kSum, "bf16", stream());
  EXPECT_EQ(values_of<uint16_t>(tensor), sum);
}

TEST_F(NcclCommunicator, SumsAreBitIdenticalOnBothRanks) {
  std::vector<float> mine(70'001);
  for (size_t i = 0; i < mine.size(); ++i) mine[i] = 1.0f / static_cast<float>(1 + i + 13 * rank());
  const std::vector<float> sum = reduced(mine, ReduceOp::kSum);
  const auto count = static_cast<int64_t>(sum.size());
  const Tensor all = arena_->allocate("test", DType::kF32, {2, count});
  ranks().all_gather(all, on_gpu(sum), "compare", stream());
  const std::vector<float> both = values_of<float>(all);
  for (size_t i = 0; i < both.size(); ++i) ASSERT_EQ(both[i], sum[i % sum.size()]) << i;
}

// What was given before the start enters the sum, what is given after wait() sees it; work between
// them touches neither.
TEST_F(NcclCommunicator, StartedReductionsAreOrderedByTheStream) {
  constexpr int64_t kCount = int64_t{1} << 24;
  const Tensor first = filled(kCount, 0.0f);
  const Tensor second = filled(kCount, 0.0f);
  const Tensor other = filled(kCount, 1.0f);
  for (int round = 0; round < 5; ++round) {
    fill(first, static_cast<float>(rank() + 1), stream());
    auto pending_first = ranks().start_all_reduce(first, ReduceOp::kSum, "first", stream());
    fill(second, static_cast<float>(rank() + 10), stream());
    auto pending_second = ranks().start_all_reduce(second, ReduceOp::kSum, "second", stream());
    for (int work = 0; work < 8; ++work) scale(other, 1.0f, stream());
    pending_second->wait();
    scale(second, 2.0f, stream());
    pending_first->wait();
    scale(first, 2.0f, stream());
    EXPECT_EQ(values_of<float>(first), std::vector<float>(kCount, 6.0f)) << "round " << round;
    EXPECT_EQ(values_of<float>(second), std::vector<float>(kCount, 42.0f)) << "round " << round;
  }
}

TEST_F(NcclCommunicator, GathersOrderByRank) {
  for (size_t count : {size_t{1}, size_t{4097}, size_t{1} << 20}) {
    std::vector<uint8_t> mine(count);
    for (size_t i = 0; i < count; ++i) mine[i] = static_cast<uint8_t>(i * 3 + 100 * rank());
    const Tensor in = on_gpu(mine);
    const Tensor plain = arena_->allocate("test", DType::kU8, {2, static_cast<int64_t>(count)});
    const Tensor started = arena_->allocate("test", DType::kU8, {2, static_cast<int64_t>(count)});
    auto pending = ranks().start_all_gather(started, in, "started", stream());
    pending->wait();
    ranks().all_gather(plain, in, "plain", stream());
    const std::vector<uint8_t> values = values_of<uint8_t>(plain);
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(values[i], static_cast<uint8_t>(i % count * 3 + 100 * (i / count))) << i;
    }
    EXPECT_EQ(values_of<uint8_t>(started), values);
  }
}

TEST_F(NcclCommunicator, BroadcastCopiesTheRoot) {
  for (int root : {0, 1}) {
    const Tensor tensor = on_gpu(std::vector<int32_t>(1003, 10 * rank() + 1));
    ranks().broadcast(tensor, root, "broadcast", stream());
    EXPECT_EQ(values_of<int32_t>(tensor), std::vector<int32_t>(1003, 10 * root + 1));
  }
}

// One mesh beside another: the axis of two ranks adds, that of one takes GPU tensors as they are.
TEST_F(NcclCommunicator, PartsWorkAtTheSameTime) {
  const DeviceMesh grid(world(), 2, device_);
  ASSERT_EQ(grid.tensor().size(), 2);
  ASSERT_EQ(grid.data().size(), 1);
  const Tensor bucket = filled(1 << 22, 1.0f);
  const Tensor hidden = filled(1 << 16, static_cast<float>(rank()));
  auto pending = grid.world().start_all_reduce(bucket, ReduceOp::kSum, "bucket", stream());
  for (int layer = 0; layer < 10; ++layer) {
    grid.tensor().all_reduce(hidden, ReduceOp::kSum, "hidden", stream());
    grid.data().all_reduce(hidden, ReduceOp::kSum, "alone", stream());
  }
  pending->wait();
  EXPECT_EQ(values_of<float>(bucket), std::vector<float>(1 << 22, 2.0f));
  EXPECT_EQ(values_of<float>(hidden), std::vector<float>(1 << 16, 512.0f));
  EXPECT_EQ(grid.world().wire_bytes(), bucket.bytes());
  EXPECT_EQ(grid.tensor().wire_bytes(), 10 * hidden.bytes());
  EXPECT_EQ(grid.data().wire_bytes(), 0);
}

// A gather of one rank is a copy on its GPU.
TEST_F(NcclCommunicator, OneRankGathersOnItsGpu) {
  const DeviceMesh grid(world(), 2, device_);
  const Tensor in = on_gpu(std::vector<uint8_t>(1001, 7));
  const Tensor out = arena_->allocate("test", DType::kU8, {1, 1001});
  grid.data().start_all_gather(out, in, "alone", stream())->wait();
  EXPECT_EQ(values_of<uint8_t>(out), std::vector<uint8_t>(1001, 7));
}

}  // namespace
}  // namespace rankwise
