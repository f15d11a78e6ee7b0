// SPDX-License-Identifier: Apache-2.0
// Saves that are not committed though every call on the disk succeeds.
#include <gtest/gtest.h>

#include <cstring>

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

// In the last of the blocks that are read back.
TEST(RefusedSave, ValuesThatAreNotFiniteAreNeverCommitted) {
  struct Case {
    DType dtype;
    uint32_t bits;
    bool finite;
  };
  const testing::ScratchFolder run;
  run_ranks_as_threads(2, [&](Communicator& world) {
    const DeviceMesh mesh(world, 2);
    CheckpointWriter writer({.folder = run.path()}, world);
    const ToyState toy(mesh, 2);
    for (const Case c : {Case{DType::kF32, 0x7fc00000, false}, Case{DType::kF32, 0xff800000, false},
                         Case{DType::kF32, 0x7f800001, false}, Case{DType::kF32, 0xff7fffff, true},
                         Case{DType::kBF16, 0xff80, false}, Case{DType::kBF16, 0x7fc0, false},
                         Case{DType::kBF16, 0x7f7f, true}, Case{DType::kF16, 0x7c00, false},
                         Case{DType::kF16, 0xfe00, false}, Case{DType::kF16, 0xfbff, true},
                         Case{DType::kI32, 0x7fc00000, true}}) {
      const Shape shape{2, kCheckpointBlockBytes / 4};
      std::vector<std::byte> memory(static_cast<size_t>(4 * shape.numel()));
      const Tensor value(memory.data(), c.dtype, shape);
      const auto bytes = static_cast<size_t>(bits_of(c.dtype) / 8);
      std::memcpy(memory.data() + value.bytes() - bytes, &c.bits, bytes);
      CheckpointState state = toy.at_step(2);
      state.tensors.push_back({"moment", value, shape, whole_part(shape), world.rank() == 1});
      if (c.finite) {
        EXPECT_EQ(save(writer, state).step, 2) << c.bits;
        continue;
      }
      try {
        save(writer, state);
        ADD_FAILURE() << "saved " << c.bits;
      } catch (const Error& error) {
        EXPECT_EQ(error.exit_code(), ExitCode::kDiverged);
        EXPECT_STREQ(
            error.what(),
            "cannot save step 2: rank 1: tensor 'moment' holds values that are not finite");
      }
    }
  });
}

// A job that was suspended for long: before the rename, or just after it.
TEST(RefusedSave, JobThatLostTheFolderChangesNothingMore) {
  const testing::ScratchFolder run;
  run_ranks_as_threads(2, [&](Communicator& world) {
    const DeviceMesh mesh(world, 2);
    int held = 2;  // of two questions in each save
    const auto require_held = [&] {
      EXPECT_EQ(world.rank(), 0);
      if (--held < 0) throw ConfigError("taken over");
    };
    CheckpointWriter writer({.folder = run.path(), .keep = 1, .require_held = require_held}, world);
    const ToyState state(mesh, 1);
    EXPECT_TRUE(save(writer, state.at_step(1)).warnings.empty());
    const auto expect_refused = [&](int64_t step, const char* message) {
      try {
        save(writer, state.at_step(step));
        ADD_FAILURE() << "goes on after step " << step;
      } catch (const Error& error) {
        EXPECT_EQ(error.exit_code(), ExitCode::kConfig);
        EXPECT_STREQ(error.what(), message);
      }
    };
    expect_refused(2, "cannot save step 2: rank 0: taken over");
    EXPECT_EQ(committed_steps(run.path()), std::vector<int64_t>{1});
    world.barrier("seen");
    held = 1;
    expect_refused(3, "step 3 is saved, nothing more can be: rank 0: taken over");
  });
  EXPECT_EQ(committed_steps(run.path()), (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(read_pointer(run.path(), kLatestPointer), 1);
}

TEST(RefusedSave, TooLittleRoomIsAnErrorBeforeAnythingIsWritten) {
  const testing::ScratchFolder run;
  run_ranks_as_threads(2, [&](Communicator& world) {
    Stream stream;
    const Shape shape{int64_t{1} << 50};  // never touched
    CheckpointState state{.step = 1};
    state.tensors.push_back(
        {"vast", Tensor(nullptr, DType::kU8, shape), shape, whole_part(shape), world.rank() == 1});
    CheckpointWriter writer({.folder = run.path()}, world);
    const std::string message = error_of<DiskError>([&] { writer.begin(state, stream); });
    RW_EXPECT_HAS(
        message,
        run.path() + ": No space left on device: a checkpoint needs 1125899906846720 bytes, ");
    EXPECT_FALSE(writer.in_flight());
    world.barrier("refused");
    EXPECT_TRUE(names_in(run.path()).empty());
  });
}

TEST(RefusedSave, WriteBeyondTheDeadlineFailsOnAllRanks) {
  const testing::ScratchFolder run;
  run_ranks_as_threads(2, [&](Communicator& world) {
    Stream stream;
    std::vector<float> large(world.rank() == 1 ? 8 << 20 : 1);
    const Tensor values(large.data(), DType::kF32, {static_cast<int64_t>(large.size())});
    CheckpointState state{.step = 1};
    state.tensors.push_back(
        {fmt::format("of {}", world.rank()), values, values.shape(), whole_part(values.shape())});
    CheckpointWriter writer({.folder = run.path(), .deadline_seconds = 1e-3}, world);
    writer.begin(state, stream);
    const std::string message = error_of<DiskError>([&] { writer.try_commit(true); });
    RW_EXPECT_HAS(message, "cannot save step 1: rank");
    RW_EXPECT_HAS(message, "step-00000001.tmp-0-0: not written after 0.001 s");
  });
  EXPECT_TRUE(committed_steps(run.path()).empty());
}

TEST(RefusedSave, PartThatNobodyWritesIsNeverCommitted) {
  const testing::ScratchFolder run;
  run_ranks_as_threads(2, [&](Communicator& world) {
    const DeviceMesh mesh(world, 2);
    CheckpointWriter writer({.folder = run.path()}, world);
    const ToyState toy(mesh, 1);
    CheckpointState state = toy.at_step(1);
    state.tensors[0].writes = world.rank() == 1;
    RW_EXPECT_HAS(error_of<FormatError>([&] { save(writer, state); }),
                  "tensor 'up.weight': manifest: 20 of 36 elements are stored");
    state.tensors[0].writes = true;
    state.scalars["metric"] = std::numeric_limits<double>::infinity();
    RW_EXPECT_HAS(error_of<FormatError>([&] { save(writer, state); }), "scalars read back changed");
  });
  EXPECT_TRUE(names_in(run.path()).empty());
}

}  // namespace
}  // namespace rankwise
