// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint/checkpoint_folder.h"

#include <gtest/gtest.h>

#include "tests/launch/checkpoint/toy_state.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using Steps = std::vector<int64_t>;
using testing::names_in;

TEST(CheckpointFolder, OnlyExactNamesAreCheckpoints) {
  EXPECT_EQ(checkpoint_name(200), "step-00000200");
  EXPECT_EQ(step_of_checkpoint("step-00000200"), 200);
  EXPECT_EQ(step_of_checkpoint(checkpoint_name(1234567890)), 1234567890);
  for (const char* name : {"step-200", "step-00000200.tmp-7-0", "step-0000020x", "step-",
                           "step--0000020", "step-+0000020", "Step-00000200", ""}) {
    EXPECT_FALSE(step_of_checkpoint(name).has_value()) << name;
  }
}

TEST(CheckpointFolder, ListsFoldersNewestFirst) {
  const testing::ScratchFolder run;
  for (const char* name : {"step-00000010/x", "step-00000200/x", "step-00000030.tmp-1-0/x",
                           ".trash-step-00000040/x", "step-00000050"}) {
    run.write(name, "");
  }
  EXPECT_EQ(committed_steps(run.path()), (Steps{200, 10}));
  EXPECT_EQ(remove_leftovers(run.path()), "");
  EXPECT_EQ(names_in(run.path()),
            (std::vector<std::string>{"step-00000010", "step-00000050", "step-00000200"}));
}

TEST(CheckpointFolder, StepsAndPointersThatCannotBeLookedAtAreNotTakenForAbsent) {
  const testing::ScratchFolder run;
  run.write("step-00000010/x", "");
  for (const std::string name : {"step-00000020", kBestPointer}) {
    std::filesystem::create_symlink(name, run.file(name));  // in a circle, so that stat() fails
  }
  RW_EXPECT_HAS(testing::error_of<DiskError>([&] { committed_steps(run.path()); }),
                "step-00000020: ");
  RW_EXPECT_HAS(testing::error_of<DiskError>([&] { read_pointer(run.path(), kBestPointer); }),
                "BEST: ");
}

TEST(CheckpointFolder, PointersThatNameNoCheckpointAreIgnored) {
  const testing::ScratchFolder run;
  EXPECT_FALSE(read_pointer(run.path(), kBestPointer).has_value());
  write_pointer(run.path(), kBestPointer, 7);
  EXPECT_FALSE(read_pointer(run.path(), kBestPointer).has_value()) << "no such folder";
  run.write("step-00000007/x", "");
  EXPECT_EQ(read_pointer(run.path(), kBestPointer), 7);
  for (const char* text : {"", "\n", "../step-00000007", "step-00000007\nmore"}) {
    run.write(kBestPointer, text);
    EXPECT_FALSE(read_pointer(run.path(), kBestPointer).has_value()) << text;
  }
  run.write(kBestPointer, std::string(1000, 's'));
  EXPECT_FALSE(read_pointer(run.path(), kBestPointer).has_value());
}

TEST(CheckpointFolder, CommitReplacesACheckpointOfTheSameStep) {
  const testing::ScratchFolder run;
  run.write("step-00000007/old", "");
  run.write("step-00000007.tmp-1-0/new", "");
  commit_folder(run.path(), run.file("step-00000007.tmp-1-0"), 7);
  EXPECT_EQ(names_in(run.path()), std::vector<std::string>{"step-00000007"});
  EXPECT_EQ(names_in(run.file("step-00000007")), std::vector<std::string>{"new"});
}

TEST(CheckpointFolder, RetentionKeepsTheNewestValidOnesAndTheBest) {
  const auto valid = [](int64_t step) { return step != 40; };
  // 40 is damaged and does not count.
  EXPECT_EQ(superseded_steps({50, 40, 30, 20, 10}, 50, {}, 2, {}, valid), (Steps{40, 20, 10}));
  EXPECT_EQ(superseded_steps({50, 40, 30, 20, 10}, 50, 10, 2, {}, valid), (Steps{40, 20}));
  EXPECT_EQ(superseded_steps({50, 40, 30, 20, 10}, 50, 50, 1, {}, valid), (Steps{40, 30, 20, 10}));
  EXPECT_EQ(superseded_steps({50}, 50, {}, 3, {}, valid), Steps{});
  // A run that resumed from 20 has reached 25: 30 to 50 belong to another continuation.
  EXPECT_EQ(superseded_steps({50, 30, 25, 20, 10}, 25, {}, 2, {50, 30}, valid),
            (Steps{50, 30, 10}));
  // Its best one too.
  EXPECT_EQ(superseded_steps({50, 30, 25, 20, 10}, 25, 30, 2, {50, 30}, valid),
            (Steps{50, 30, 10}));
  EXPECT_EQ(superseded_steps({50, 25, 20}, 25, 25, 1, {50, 25}, valid), (Steps{50, 20}));
}

}  // namespace
}  // namespace rankwise
