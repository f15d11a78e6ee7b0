// SPDX-License-Identifier: Apache-2.0
// Save, damage and restore with processes as ranks.
#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "launch/checkpoint/checkpoint_folder.h"
#include "tests/launch/checkpoint/toy_state.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/test_world.h"

namespace rankwise {
namespace {

TEST(MpiCheckpoint, RestoresTheNewestValidOne) {
  Communicator& world = testing::world();
  std::unique_ptr<testing::ScratchFolder> own;
  if (world.rank() == 0) own = std::make_unique<testing::ScratchFolder>();
  const std::string run = world.broadcast_text(own ? own->path() : "", 0, "folder");
  testing::save_steps(run, world, world.size(), {10, 20});
  if (world.rank() == 0) std::filesystem::resize_file(run + "/step-00000020/rank-0000.h5", 100);
  world.barrier("damaged");

  const DeviceMesh mesh(world, 1);  // another layout than the one that wrote
  Stream stream;
  testing::ToyState state(mesh, 0);
  const FoundCheckpoint found = find_checkpoint(run, world);
  ASSERT_TRUE(found.reader.has_value());
  ASSERT_EQ(found.warnings.size(), 1u);
  EXPECT_NE(found.warnings[0].find("rank-0000.h5: 100 bytes"), std::string::npos);
  found.reader->restore(state.tensors(), stream);
  EXPECT_EQ(state.differences(10), 0);

  CheckpointWriter writer({.folder = run, .keep = 2, .resumed_from = 10}, world);
  writer.begin(state.at_step(15), stream);
  state.fill(99);
  while (!writer.try_commit(false)) std::this_thread::yield();
  EXPECT_EQ(find_checkpoint(run, world).reader->step(), 15);
  EXPECT_EQ(committed_steps(run), (std::vector<int64_t>{15, 10}));
  world.barrier("done");
}

}  // namespace
}  // namespace rankwise
