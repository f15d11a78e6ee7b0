// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint/checkpoint_writer.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <thread>

#include "launch/checkpoint/checkpoint_folder.h"
#include "tests/launch/checkpoint/toy_state.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

using testing::error_of;
using testing::names_in;
using testing::save;
using testing::ToyState;
using Names = std::vector<std::string>;

// Step 1 is saved; then `fail` must throw the same DiskError on each of 4 ranks, and step 1 stands.
template <class Fail>
std::string failure_after_a_checkpoint(const testing::ScratchFolder& run, const Fail& fail) {
  std::mutex mutex;
  std::set<std::string> messages;
  run_ranks_as_threads(4, [&](Communicator& world) {
    const DeviceMesh mesh(world, 2);
    ToyState state(mesh, 1);
    CheckpointWriter writer({.folder = run.path()}, world);
    save(writer, state.at_step(1));
    world.barrier("saved");
    const std::string message = error_of<DiskError>([&] { fail(writer, state, world); });
    EXPECT_FALSE(writer.in_flight());
    {
      const std::lock_guard lock(mutex);
      messages.insert(message);
    }
    world.barrier("failed");
    EXPECT_EQ(find_checkpoint(run.path(), world).reader->step(), 1);
    // The next one goes well.
    EXPECT_EQ(save(writer, state.at_step(3)).step, 3);
  });
  EXPECT_EQ(messages.size(), 1u);
  EXPECT_EQ(names_in(run.path()), (Names{"LATEST", "step-00000001", "step-00000003"}));
  return *messages.begin();
}

TEST(CheckpointWriter, CommitsOneFilePerWritingRankAndAManifest) {
  const testing::ScratchFolder run;
  run_ranks_as_threads(4, [&](Communicator& world) {
    const DeviceMesh mesh(world, 2);
    CheckpointWriter writer({.folder = run.path()}, world);
    const CommitReport report = save(writer, ToyState(mesh, 5).at_step(200));
    EXPECT_EQ(report.path, run.file("step-00000200"));
    EXPECT_TRUE(report.warnings.empty());
    EXPECT_GT(report.bytes, 0);
    EXPECT_GT(report.blocked_seconds, 0.0);
    EXPECT_GT(report.durable_seconds, 0.0);
  });
  EXPECT_EQ(names_in(run.path()), (Names{"LATEST", "step-00000200"}));
  EXPECT_EQ(names_in(run.file("step-00000200")),
            (Names{"manifest.json", "rank-0000.h5", "rank-0001.h5"}));
  EXPECT_EQ(read_pointer(run.path(), kLatestPointer), 200);
}

TEST(CheckpointWriter, WhatChangesAfterBeginIsNotSaved) {
  const testing::ScratchFolder run;
  run_ranks_as_threads(4, [&](Communicator& world) {
    const DeviceMesh mesh(world, 2);
    Stream stream;
    ToyState state(mesh, 5);
    // Large enough that the write is under way when it changes.
    std::vector<float> large(1 << 20, 1.0f);
    const Tensor values(large.data(), DType::kF32, {1 << 20});
    CheckpointState saved = state.at_step(1);
    saved.tensors.push_back(
        {"large", values, values.shape(), whole_part(values.shape()), world.rank() == 3});
    CheckpointWriter writer({.folder = run.path()}, world);
    writer.begin(saved, stream);
    state.fill(6);
    std::fill(large.begin(), large.end(), 2.0f);
    ASSERT_TRUE(writer.try_commit(true).has_value());
    find_checkpoint(run.path(), world).reader->restore(saved.tensors, stream);
    EXPECT_EQ(state.differences(5), 0);
    EXPECT_EQ(std::count(large.begin(), large.end(), 1.0f), 1 << 20);
  });
}

TEST(CheckpointWriter, PollingCommitsWhenAllRanksHaveWritten) {
  const testing::ScratchFolder run;
  run_ranks_as_threads(2, [&](Communicator& world) {
    const DeviceMesh mesh(world, 1);
    Stream stream;
    CheckpointWriter writer({.folder = run.path()}, world);
    writer.begin(ToyState(mesh, 5).at_step(1), stream);
    while (!writer.try_commit(false)) std::this_thread::yield();
    EXPECT_FALSE(writer.in_flight());
  });
  EXPECT_EQ(committed_steps(run.path()), std::vector<int64_t>{1});
}

TEST(CheckpointWriter, KeepsTheNewestAndTheBest) {
  const testing::ScratchFolder run;
  run_ranks_as_threads(2, [&](Communicator& world) {
    const DeviceMesh mesh(world, 2);
    CheckpointWriter writer({.folder = run.path(), .keep = 2}, world);
    for (int64_t step : {10, 20, 30, 40, 50}) {
      const ToyState toy(mesh, 5);
      CheckpointState state = toy.at_step(step);
      state.best = step == 20;
      save(writer, state);
    }
  });
  EXPECT_EQ(names_in(run.path()),
            (Names{"BEST", "LATEST", "step-00000020", "step-00000040", "step-00000050"}));
}

// Which is the best, or whether an older one is valid.
TEST(CheckpointWriter, RemovesNothingWhenItCannotReadWhatStays) {
  for (const auto& [name, keep] :
       {std::pair{"BEST", 1}, std::pair{"step-00000010/manifest.json", 2}}) {
    const testing::ScratchFolder run;
    run_ranks_as_threads(2, [&](Communicator& world) {
      const DeviceMesh mesh(world, 2);
      CheckpointWriter writer({.folder = run.path(), .keep = keep}, world);
      save(writer, ToyState(mesh, 5).at_step(10));
      if (world.rank() == 0) {
        std::filesystem::remove(run.file(name));
        run.write(std::string(name) + "/file", "a folder cannot be read as a file");
      }
      const auto warnings = save(writer, ToyState(mesh, 5).at_step(20)).warnings;
      ASSERT_EQ(warnings.size(), world.rank() == 0 ? 1u : 0u);
      for (const std::string& warning : warnings) {
        EXPECT_EQ(warning, "rank 0: " + run.file(name) + ": not a regular file");
      }
    });
    EXPECT_EQ(committed_steps(run.path()), (std::vector<int64_t>{20, 10}));
  }
}

TEST(CheckpointWriter, ResumedRunReplacesTheContinuationItLeft) {
  const testing::ScratchFolder run;
  run_ranks_as_threads(2, [&](Communicator& world) {
    testing::save_steps(run.path(), world, 1, {10, 20, 30});
    if (world.rank() == 0) run.write("step-00000040.tmp-8-0/rank-0000.h5", "left by a killed run");
    world.barrier("left");
    const DeviceMesh mesh(world, 2);
    CheckpointWriter writer({.folder = run.path(), .keep = 3, .resumed_from = 10}, world);
    world.barrier("started");
    EXPECT_EQ(committed_steps(run.path()), (std::vector<int64_t>{30, 20, 10}));
    save(writer, ToyState(mesh, 7).at_step(20));
    world.barrier("saved");
  });
  EXPECT_EQ(names_in(run.path()), (Names{"LATEST", "step-00000010", "step-00000020"}));
}

TEST(CheckpointWriter, FailedWriteOfOneRankIsTheSameErrorOnAll) {
  const testing::ScratchFolder run;
  const std::string message = failure_after_a_checkpoint(
      run, [&](CheckpointWriter& writer, ToyState& state, Communicator& world) {
        // Only the file of rank 2 grows beyond the limit of the process.
        std::optional<testing::FileSizeLimit> limit;
        if (world.rank() == 0) limit.emplace(100'000);
        world.barrier("limited");
        std::vector<float> large(100'000);
        const Tensor values(large.data(), DType::kF32, {100'000});
        CheckpointState wide = state.at_step(2);
        wide.tensors.push_back(
            {"large", values, values.shape(), whole_part(values.shape()), world.rank() == 2});
        save(writer, wide);
      });
  RW_EXPECT_HAS(message, "cannot save step 2: rank 2: " + run.file("step-00000002.tmp-0-0"));
  RW_EXPECT_HAS(message, "rank-0002.h5");
  RW_EXPECT_HAS(message, "File too large");
}

TEST(CheckpointWriter, FailedManifestLeavesTheOldCheckpoint) {
  const testing::ScratchFolder run;
  const std::string message = failure_after_a_checkpoint(
      run, [&](CheckpointWriter& writer, ToyState& state, Communicator& world) {
        std::optional<testing::FileSizeLimit> limit;
        if (world.rank() == 0) limit.emplace(100'000);
        world.barrier("limited");
        CheckpointState wide = state.at_step(2);
        wide.scalars["config"] = std::string(200'000, 'x');
        save(writer, wide);
      });
  RW_EXPECT_HAS(message, "cannot save step 2: rank 0: ");
  RW_EXPECT_HAS(message, "manifest.json");
  RW_EXPECT_HAS(message, "File too large");
}

TEST(CheckpointWriter, FailedRenameLeavesTheOldCheckpoint) {
  const testing::ScratchFolder run;
  const std::string message = failure_after_a_checkpoint(
      run, [&](CheckpointWriter& writer, ToyState& state, Communicator& world) {
        if (world.rank() == 0) run.write("step-00000002", "a file in the way");
        world.barrier("blocked");
        const std::string error = error_of<DiskError>([&] { save(writer, state.at_step(2)); });
        world.barrier("tried");
        if (world.rank() == 0) std::filesystem::remove(run.file("step-00000002"));
        throw DiskError(error);
      });
  RW_EXPECT_HAS(message, "cannot save step 2: rank 0: ");
  RW_EXPECT_HAS(message, "rename failed");
  RW_EXPECT_HAS(message, "Not a directory");
}

TEST(CheckpointWriter, FolderOfAnotherAttemptIsNotTouched) {
  const testing::ScratchFolder run;
  const std::string message = failure_after_a_checkpoint(
      run, [&](CheckpointWriter& writer, ToyState& state, Communicator& world) {
        if (world.rank() == 0) run.write("step-00000002.tmp-0-0/x", "");
        world.barrier("blocked");
        const std::string error = error_of<DiskError>([&] { save(writer, state.at_step(2)); });
        world.barrier("tried");
        EXPECT_TRUE(std::filesystem::exists(run.file("step-00000002.tmp-0-0/x")));
        world.barrier("seen");
        if (world.rank() == 0) remove_folder(run.file("step-00000002.tmp-0-0"));
        throw DiskError(error);
      });
  EXPECT_EQ(message, "cannot save step 2: rank 0: " + run.file("step-00000002.tmp-0-0") +
                         ": create failed: File exists");
}

TEST(CheckpointWriter, MissingRunFolderIsNamedByAllRanks) {
  run_ranks_as_threads(2, [&](Communicator& world) {
    const testing::ScratchFolder run;
    const DeviceMesh mesh(world, 1);
    Stream stream;
    const std::string folder = world.broadcast_text(run.path(), 0, "folder");
    CheckpointWriter writer({.folder = folder}, world);
    world.barrier("made");
    if (world.rank() == 0) std::filesystem::remove_all(folder);
    world.barrier("removed");
    const std::string message =
        error_of<DiskError>([&] { writer.begin(ToyState(mesh, 1).at_step(1), stream); });
    RW_EXPECT_HAS(message, "cannot save step 1: rank 0: " + folder);
    RW_EXPECT_HAS(message, "No such file or directory; rank 1: ");
  });
}

}  // namespace
}  // namespace rankwise
