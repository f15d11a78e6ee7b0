// SPDX-License-Identifier: Apache-2.0
#include "parallel/device_mesh.h"

#include <gtest/gtest.h>

#include "parallel/nccl_communicator.h"
#include "tests/support/error_of.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

TEST(DeviceMesh, TensorRanksAreNeighbours) {
  run_ranks_as_threads(4, [](Communicator& world) {
    const DeviceMesh mesh(world, 2);
    EXPECT_EQ(mesh.world().size(), 4);
    EXPECT_EQ(mesh.data().size(), 2);
    EXPECT_EQ(mesh.tensor().size(), 2);
    EXPECT_EQ(mesh.data().rank(), world.rank() / 2);
    EXPECT_EQ(mesh.tensor().rank(), world.rank() % 2);
    const double over_tensor =
        all_reduce_numbers(mesh.tensor(), {1.0 * world.rank()}, ReduceOp::kSum, "tensor")[0];
    EXPECT_EQ(over_tensor, world.rank() < 2 ? 1.0 : 5.0);
    const double over_data =
        all_reduce_numbers(mesh.data(), {1.0 * world.rank()}, ReduceOp::kSum, "data")[0];
    EXPECT_EQ(over_data, world.rank() % 2 == 0 ? 2.0 : 4.0);
  });
}

TEST(DeviceMesh, OneTensorRankLeavesTheWorldToData) {
  run_ranks_as_threads(3, [](Communicator& world) {
    const DeviceMesh mesh(world, 1);
    EXPECT_EQ(mesh.data().size(), 3);
    EXPECT_EQ(mesh.data().rank(), world.rank());
    EXPECT_EQ(mesh.tensor().size(), 1);
  });
}

TEST(DeviceMesh, WorldThatIsNoMultipleIsRefused) {
  run_ranks_as_threads(3, [](Communicator& world) {
    EXPECT_THROW(DeviceMesh(world, 2), ConfigError);
    EXPECT_THROW(DeviceMesh(world, 4), ConfigError);
    EXPECT_THROW(DeviceMesh(world, 0), ConfigError);
  });
}

TEST(DeviceMesh, WireBytesAddUpOverTheAxes) {
  run_ranks_as_threads(4, [](Communicator& world) {
    const DeviceMesh mesh(world, 2);
    Stream measuring({}, Stream::Mode::kMeasure);
    const Tensor tensor(nullptr, DType::kF32, {8});  // 32 bytes
    mesh.world().all_reduce(tensor, ReduceOp::kSum, "world", measuring);
    mesh.data().all_reduce(tensor, ReduceOp::kSum, "data", measuring);
    mesh.tensor().all_reduce(tensor, ReduceOp::kSum, "tensor", measuring);
    EXPECT_EQ(mesh.wire_bytes(), 48 + 32 + 32);
  });
}

TEST(DeviceMesh, SeveralRanksOnGpusNeedNccl) {
  if (kHasNccl) return;
  run_ranks_as_threads(2, [](Communicator& world) {
    EXPECT_EQ(testing::error_of<ConfigError>([&] {
                DeviceMesh(world, 1, {DeviceKind::kCuda, 0});
              }),
              "device: cuda on several ranks needs a build with NCCL");
  });
}

}  // namespace
}  // namespace rankwise
