// SPDX-License-Identifier: Apache-2.0
#include "launch/output_folder.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "runtime/errors.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

TEST(OutputFolder, AbsentAndEmptyFoldersAreFree) {
  const testing::ScratchFolder scratch;
  EXPECT_NO_THROW(require_output_folder(scratch.file("new"), "config.json", false));
  EXPECT_NO_THROW(require_output_folder(scratch.path(), "config.json", false));
}

TEST(OutputFolder, FolderOfItsKindIsReplacedOnlyWhenAsked) {
  const testing::ScratchFolder scratch;
  scratch.write("model/config.json", "{}");
  EXPECT_THROW(require_output_folder(scratch.file("model"), "config.json", false), ConfigError);
  EXPECT_NO_THROW(require_output_folder(scratch.file("model"), "config.json", true));
}

TEST(OutputFolder, OtherFoldersAndFilesAreNeverReplaced) {
  const testing::ScratchFolder scratch;
  scratch.write("home/thesis.tex", "");
  const std::string file = scratch.write("model.h5", "");
  EXPECT_THROW(require_output_folder(scratch.file("home"), "config.json", true), ConfigError);
  EXPECT_THROW(require_output_folder(file, "config.json", true), ConfigError);
}

TEST(OutputFolder, InputIsRecognisedUnderAnotherName) {
  const testing::ScratchFolder scratch;
  scratch.write("model/config.json", "{}");
  std::filesystem::create_directory_symlink("model", scratch.file("link"));
  EXPECT_THROW(require_other_folder(scratch.file("link"), scratch.file("model")), ConfigError);
  EXPECT_THROW(require_other_folder(scratch.file("model/."), scratch.file("model")), ConfigError);
  EXPECT_NO_THROW(require_other_folder(scratch.file("other"), scratch.file("model")));
}

TEST(OutputFolder, AFullDiskAndAFullQuotaComeWithAdvice) {
  for (const char* reason :
       {"No space left on device", "error message = 'Disk quota exceeded', x"}) {
    EXPECT_TRUE(disk_advice(fmt::format("a.h5: write failed: {}", reason)).starts_with("; free "));
  }
  EXPECT_EQ(disk_advice("a.h5: write failed: Input/output error"), "");
}

}  // namespace
}  // namespace rankwise
